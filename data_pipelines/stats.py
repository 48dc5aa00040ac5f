"""What is in shards: documents, pictures, words, tokens, resolution, languages, sources, duplicates.

Statistics of shards add up to those of a set, in the order of shards, so they do not depend on the number of workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from data_pipelines.dedup.exact import DIGEST_BYTES, document_digest
from data_pipelines.errors import DocumentError
from data_pipelines.execution import Engine
from data_pipelines.glance import Header, encoded, read_header
from data_pipelines.histogram import Histogram
from data_pipelines.rules.language import guess_language
from data_pipelines.shard import read_documents
from data_pipelines.shard_pool import each_shard
from text.document import Document, Text
from text.tokenizer import Tokenizer

__all__ = ["EDGES", "MAX_NAMES", "Counting", "Statistics", "count_shard", "count_shards"]

EDGES: Mapping[str, tuple[float, ...]] = {
    "pictures a document": (0, 1, 2, 3, 4, 5, 6, 8, 11, 21),
    "words a document": (0, *(2**power for power in range(2, 16))),
    "tokens a document": (0, *(2**power for power in range(2, 17))),
    "shortest side (px)": (0, 32, 64, 128, 200, 256, 384, 512, 768, 1024, 2048),
    "width / height": (0, 0.33, 0.5, 0.67, 0.8, 0.95, 1.05, 1.25, 1.5, 2, 3),
}
"""Histograms and where their bins begin."""
MAX_NAMES = 1_000  # of one category; a field that is another one in every document must not fill the memory
OTHERS = "(others)"
NOT_STATED = "(not stated)"
NO_WORDS = "(no words)"
UNREADABLE = "(unreadable)"
MAX_SHOWN = 15  # of one category, in the tables
_TOTALS = {"pictures": "pictures a document", "words": "words a document", "tokens": "tokens a document"}


@dataclass(frozen=True, kw_only=True)
class Counting:
    """What is counted beside what costs little.

    Attributes:
        tokenizer: SentencePiece model for tokens; None: they are not counted.
        languages: whether the language of every document is guessed.
    """

    tokenizer: Path | None = None
    languages: bool = True


def _empty_histograms() -> dict[str, Histogram]:
    return {name: Histogram.of(edges, []) for name, edges in EDGES.items()}


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counts over documents.

    Attributes:
        documents: that could be read.   broken: those that could not, by reason.
        histograms: by the names of `EDGES`; empty where nothing was counted.
        categories: counts by name: kinds of pictures, languages, sources, licences.
        digests: of every document, 16 bytes each, in one piece a shard.
    """

    documents: int = 0
    broken: Mapping[str, int] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=_empty_histograms)
    categories: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    digests: tuple[bytes, ...] = ()

    def __add__(self, other: Statistics) -> Statistics:
        names = dict.fromkeys((*self.categories, *other.categories))
        return Statistics(
            documents=self.documents + other.documents,
            broken=dict(Counter(self.broken) + Counter(other.broken)),
            histograms={name: self.histograms[name] + other.histograms[name] for name in EDGES},
            categories={name: _merged(self.categories.get(name, {}), other.categories.get(name, {})) for name in names},
            digests=self.digests + other.digests,
        )

    @property
    def exact_duplicates(self) -> int:
        """Documents with the same words and pictures as another one, the first of each not counted."""
        digests = np.frombuffer(b"".join(self.digests), dtype=np.dtype((np.void, DIGEST_BYTES)))
        return len(digests) - len(np.unique(digests))

    def to_record(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "documents": self.documents,
            "broken": dict(sorted(self.broken.items())),
            "exact_duplicates": self.exact_duplicates,
            "totals": {name: int(self.histograms[place].total) for name, place in _TOTALS.items()},
            "histograms": {name: histogram.to_record() for name, histogram in self.histograms.items()},
            "categories": {name: dict(_by_count(counts)) for name, counts in self.categories.items()},
        }

    def to_text(self) -> str:
        """Tables for people."""
        lines = [f"{self.documents:,} documents, {self.exact_duplicates:,} of them exact duplicates of another one"]
        lines += [f"  {count:,} that cannot be read: {reason}" for reason, count in sorted(self.broken.items())]
        for name, place in _TOTALS.items():
            histogram = self.histograms[place]
            if histogram.count:
                lines.append(f"{int(histogram.total):,} {name}, {histogram.mean:.2f} a document")
        for name, histogram in self.histograms.items():
            shown = [one for one in histogram.bins() if one.num_values]
            lines += _table(f"{name}, mean {histogram.mean:.2f}", shown) if shown else []
        for name, counts in self.categories.items():
            lines += _table(name, _by_count(counts)[:MAX_SHOWN])
        return "\n".join(lines)


def count_shards(
    paths: Sequence[str],
    counting: Counting,
    *,
    workers: int = 1,
    engine: Engine = "local",
    allow_pipe: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Statistics of shards.

    Args:
        told: hears of (shards done, shards in all).
    Raises: OSError; ShardError for a torn shard; ValueError for a missing extra or a file that is no tokenizer.
    """
    work = partial(count_shard, counting=counting, allow_pipe=allow_pipe)
    whole = Statistics()
    for done, found in enumerate(each_shard(work, paths, workers=workers, engine=engine), start=1):
        whole = whole + found
        if told is not None:
            told(done, len(paths))
    return whole


def count_shard(path: str, *, counting: Counting, allow_pipe: bool = False) -> Statistics:
    """Statistics of one shard."""
    values: dict[str, list[float]] = {name: [] for name in EDGES}
    categories: dict[str, Counter[str]] = {}
    broken, digests = Counter[str](), list[bytes]()
    for _, document in read_documents(path, allow_pipe=allow_pipe):
        if isinstance(document, DocumentError):
            broken[document.reason] += 1
            continue
        digests.append(document_digest(document))
        for name, value in _measures(document, counting):
            values[name].append(value)
        for category, name in _names(document, counting):
            _count(categories.setdefault(category, Counter()), name)
    return Statistics(
        documents=len(digests),
        broken=broken,
        histograms={name: Histogram.of(EDGES[name], found) for name, found in values.items()},
        categories=categories,
        digests=(b"".join(digests),),
    )


def _measures(document: Document, counting: Counting) -> Iterator[tuple[str, float]]:
    texts = [segment.text for segment in document.segments if isinstance(segment, Text)]
    yield "pictures a document", len(document.images)
    yield "words a document", sum(len(text.split()) for text in texts)
    if counting.tokenizer is not None:
        tokenizer = _tokenizer(counting.tokenizer)
        yield "tokens a document", sum(len(tokenizer.encode(text)) for text in texts)
    for header in _headers(document):
        if header is not None:
            yield "shortest side (px)", min(header.width, header.height)
            yield "width / height", header.width / header.height


def _names(document: Document, counting: Counting) -> Iterator[tuple[str, str]]:
    for header in _headers(document):
        yield "kinds of pictures", header.kind if header is not None else UNREADABLE
    if counting.languages:
        text = "\n".join(segment.text for segment in document.segments if isinstance(segment, Text))
        yield "languages", guess_language(text).code if text.strip() else NO_WORDS
    yield "sources", _source(document.meta.get("source", document.meta.get("url")))
    yield "licences", _stated(document.meta.get("license", document.meta.get("licence")))


def _headers(document: Document) -> list[Header | None]:
    return [_header(encoded(image)) for image in document.images]


@lru_cache(maxsize=16)  # asked twice in a row
def _header(data: bytes) -> Header | None:
    try:
        return read_header(data)
    except ValueError:
        return None


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer(path, specials="kosmos2")


def _source(value: object) -> str:
    """An address counts as its host: pages of one site are one source."""
    name = _stated(value)
    return (urlsplit(name).hostname or name) if "://" in name else name


def _stated(value: object) -> str:
    return value[:100] if isinstance(value, str) and value else NOT_STATED


def _count(counts: Counter[str], name: str, count: int = 1) -> None:
    counts[name if name in counts or len(counts) < MAX_NAMES else OTHERS] += count


def _merged(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    counts = Counter(first)
    for name, count in second.items():
        _count(counts, name, count)
    return dict(counts)


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _table(title: str, rows: Sequence[tuple[str, int]]) -> list[str]:
    total, width = sum(count for _, count in rows), max(len(name) for name, _ in rows)
    return [title, *(f"  {name:<{width}}  {count:>10,}  {count / total:6.1%}" for name, count in rows)]
