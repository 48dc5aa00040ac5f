"""What evaluation sets hold, so that training documents that hold it too can be dropped (decontamination).

Words: a document is contaminated by 13 normalised words in a row of an evaluation text, as for GPT-3 (Brown et al.
2020, appendix C); a text of 8 to 12 words counts as a whole, a shorter one says too little and is not looked for.
Pictures: by perceptual hash.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from data_pipelines.dedup.exact import normalised_words
from data_pipelines.dedup.perceptual import PictureHash, PictureIndex, picture_hash
from data_pipelines.errors import DocumentError
from data_pipelines.glance import encoded, reduced
from data_pipelines.report import Report
from data_pipelines.shard import read_documents
from data_pipelines.stores import expand
from data_pipelines.whole_file import whole_file
from text.document import Document, Text

__all__ = ["EvaluationSet", "collect", "load", "word_runs"]

RUN_WORDS = 13
MIN_WORDS = 8
MAX_LINE_BYTES = 16 * 2**20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing


@dataclass(frozen=True, kw_only=True)
class _Item:
    texts: tuple[str, ...] = ()
    pictures: tuple[PictureHash, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class EvaluationSet:
    """Words and pictures to look for.

    Attributes:
        runs: sorted hashes of runs of words, by their length.   pictures: their index.
    """

    name: str
    runs: dict[int, NDArray[np.uint64]]
    pictures: PictureIndex

    def is_in(self, words: Sequence[str], pictures: Sequence[PictureHash]) -> bool:
        """Whether a document with these normalised words and pictures holds a text or a picture of the set."""
        if any(self.pictures.find(picture) for picture in pictures):
            return True
        return any(_any_in(word_runs(words, length), known) for length, known in self.runs.items())


def collect(name: str, source: str, target: Path, *, allow_pipe: bool = False) -> Report:
    """Hash the texts and pictures of shards or of a JSONL file (all strings of a line) into a file.

    Returns: how many there are, as notes.
    Raises: OSError; ValueError for a line that is no JSON.
    """
    runs: defaultdict[int, set[int]] = defaultdict(set)
    pictures: list[PictureHash] = []
    noted: Counter[str] = Counter()
    for item in _items(source, allow_pipe):
        if item.fault:
            noted[f"{name}: {item.fault}"] += 1
        pictures += item.pictures
        for text in item.texts:
            words = normalised_words(text)
            looked_for = len(words) >= MIN_WORDS
            noted[f"{name}: texts {'looked for' if looked_for else 'too short to look for'}"] += 1
            if looked_for:
                length = min(len(words), RUN_WORDS)
                runs[length].update(word_runs(words, length).tolist())
    if pictures:
        noted[f"{name}: pictures looked for"] = len(pictures)
    arrays = {f"runs_{length}": np.array(sorted(found), dtype=np.uint64) for length, found in runs.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as file:
        np.savez(file, pictures=np.array(pictures, dtype=np.uint64).reshape(-1, 2), allow_pickle=False, **arrays)
    return Report(noted=dict(noted))


@lru_cache(maxsize=64)  # a worker looks at many shards
def load(name: str, path: Path, max_distance: int) -> EvaluationSet:
    """What `collect` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        runs = {int(field.removeprefix("runs_")): arrays[field] for field in arrays if field != "pictures"}
        index = PictureIndex(max_distance)
        for find, confirm in arrays["pictures"].tolist():
            index.add(0, PictureHash(find, confirm))
    return EvaluationSet(name, runs, index)


def word_runs(words: Sequence[str], length: int) -> NDArray[np.uint64]:
    """A 64-bit hash of every `length` words in a row."""
    count = len(words) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    numbers = np.array([_word_hash(word) for word in words], dtype=np.uint64)
    hashes = np.zeros(count, dtype=np.uint64)
    for start in range(length):  # a polynomial in the words, modulo 2^64
        hashes = hashes * _FACTOR + numbers[start : start + count]
    return hashes


@lru_cache(maxsize=2**16)
def _word_hash(word: str) -> int:
    return int.from_bytes(blake3(word.encode()).digest()[:8], "little")


def _any_in(wanted: NDArray[np.uint64], known: NDArray[np.uint64]) -> bool:
    if not len(wanted) or not len(known):
        return False
    places = np.searchsorted(known, wanted)
    return bool(np.any(known[np.minimum(places, len(known) - 1)] == wanted))


def _items(source: str, allow_pipe: bool) -> Iterator[_Item]:
    if source.endswith((".jsonl", ".jsonl.gz")):
        for record in _records(source):
            yield _Item(texts=tuple(_strings(record)))
        return
    for path in expand([source], allow_pipe=allow_pipe):
        for _, document in read_documents(path, allow_pipe=allow_pipe):
            if isinstance(document, DocumentError):
                yield _Item(fault=document.reason)
                continue
            texts = [segment.text for segment in document.segments if isinstance(segment, Text)]
            yield _Item(texts=(*texts, *_strings(document.meta)), pictures=tuple(_hashes(document)))


def _records(path: str) -> Iterator[object]:
    with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"{path}, line {number}: no JSON; give one object a line") from None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _hashes(document: Document) -> Iterator[PictureHash]:
    for image in document.images:
        try:
            found = picture_hash(reduced(encoded(image)))
        except ValueError:  # a picture nobody can see
            continue
        if found is not None:
            yield found
