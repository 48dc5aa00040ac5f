"""What the bench `train` reads: shards of real documents where the folder of real data is, drawn ones elsewhere.

Drawn documents have as many words and pictures as those of the real corpora have, so that packing finds as much to do.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from itertools import count, cycle, islice
from pathlib import Path
from typing import NamedTuple

from data_pipelines.creation import create, plan
from data_pipelines.execution import Execution
from data_pipelines.shard import ShardWriter
from data_pipelines.sources.source import Options
from kosmos.bench.data_corpus import pictures
from text.document import Document, Image, Segment, Text
from text.tokenizer import Tokenizer

__all__ = ["Corpus", "captions", "pages", "pictured_texts"]

WORDS = (
    "a the of and to in is was that for with on his her they it as at by from men dog house river tree little old white"
    " great went came said saw two day night hand water long after before under over people children small young stone"
)
# Of 24 even steps through all documents, shortest first: pictures and words of a page (185 of them), words of a caption
# (500 of Flickr8k).
PAGES = (
    (1, 145), (1, 217), (1, 245), (1, 266), (1, 292), (1, 311), (1, 331), (2, 286), (2, 315), (1, 404), (1, 430),
    (1, 476), (1, 514), (1, 608), (1, 743), (3, 749), (1, 1068), (1, 1274), (3, 1231), (5, 1237), (2, 1643), (5, 1553),
    (3, 2231), (3, 3883),
)  # fmt: skip
CAPTIONS = (6, 8, 8, 9, 9, 10, 10, 11, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16, 17, 18, 19, 20, 23)
DRAWN = 240


class Corpus(NamedTuple):
    """Shards, and whether people wrote what is in them."""

    shards: tuple[str, ...]
    real: bool


def pictured_texts(folder: Path, data: Path, tokenizer: Tokenizer, *, tokens: int, documents: int) -> Corpus:
    """A picture each, and after it words of exactly so many tokens, from books."""
    books = sorted((data / "text").glob("books-train*.jsonl.gz"))
    texts = (
        found for text in (_books(books) if books else _drawn_texts()) if (found := _exactly(text, tokens, tokenizer))
    )
    photographs = cycle(pictures(data, min(documents, 64)))
    with ShardWriter(folder / "pictured-000000.tar") as writer:
        for number, text in enumerate(islice(texts, documents)):
            writer.write_parts(f"pictured-{number:06}", {"jpg": next(photographs), "txt": text.encode()})
    return Corpus((str(writer.path),), real=bool(books))


def pages(folder: Path, data: Path) -> Corpus:
    """Words and pictures in reading order."""
    sources = sorted((data / "interleaved").glob("docs.jsonl"))
    if sources:
        return _created(sources, folder / "pages", Options())
    return _drawn(folder / "pages-000000.tar", data, PAGES)


def captions(folder: Path, data: Path) -> Corpus:
    """A picture and a sentence."""
    sources = sorted((data / "flickr8k").glob("train-000000.tar"))
    if sources:
        return _created(sources, folder / "captions", Options(captions="captions"))
    return _drawn(folder / "captions-000000.tar", data, [(1, words) for words in CAPTIONS])


def _created(sources: list[Path], folder: Path, options: Options) -> Corpus:
    create(plan(sources, options), folder, Execution())
    return Corpus((str(folder),), real=True)


def _drawn(path: Path, data: Path, shapes: tuple[tuple[int, int], ...] | list[tuple[int, int]]) -> Corpus:
    photographs, draws = cycle(pictures(data, 64)), random.Random(0)
    with ShardWriter(path) as writer:
        for number, (num_pictures, num_words) in enumerate(islice(cycle(shapes), DRAWN)):
            segments: list[Segment] = []
            for _ in range(num_pictures):
                words = _drawn_words(draws, num_words // num_pictures)
                segments += [Image(next(photographs)), Text(words)]
            writer.write(f"{path.stem}-{number:06}", Document(tuple(segments)))
    return Corpus((str(path),), real=False)


def _books(paths: list[Path]) -> Iterator[str]:
    """A part of a book at a time, without end."""
    for path in cycle(paths):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from (str(json.loads(line)["text"]) for line in lines)


def _drawn_texts() -> Iterator[str]:
    return (_drawn_words(random.Random(seed), 2000) for seed in count())


def _drawn_words(draws: random.Random, num_words: int) -> str:
    return " ".join(draws.choices(WORDS.split(), k=num_words))


def _exactly(text: str, tokens: int, tokenizer: Tokenizer) -> str | None:
    """The beginning of `text` that is so many tokens; None if it is too short, or cut off becomes other tokens."""
    pieces = tokenizer.pieces(text)
    if len(pieces) < tokens:
        return None
    beginning = text[: pieces[tokens - 1].end]
    return beginning if len(tokenizer.encode(beginning)) == tokens else None
