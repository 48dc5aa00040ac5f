"""WebDataset samples: pairs of picture and words (img2dataset's shards and folders), and documents of our own form."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipelines.schema import document_of_parts
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import checked
from data_pipelines.sources.rows import Row
from data_pipelines.sources.samples import open_samples
from data_pipelines.sources.source import Converted, Entry, Opened, Options

__all__ = ["WebDataset"]

GROUNDED = ("noun_chunks", "ref_exps")


class WebDataset:
    """`KEY.jpg` + `KEY.txt` (+ `KEY.json`, whose `caption` stands in for words that are not there)."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        pair = first.has_picture and ("txt" in first.parts or isinstance(first.record.get("caption"), str))
        return bool(first.parts) and ("segments" in first.record or pair) and not _is_other(first)

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_samples(first), _entries)


def _is_other(first: Glimpse) -> bool:
    """Grounded captions come as such pairs too."""
    return any(name in first.record for name in GROUNDED)


def _entries(row: Row) -> Iterator[Entry]:
    document = document_of_parts(row.name, row.parts)
    for image in document.images:
        assert isinstance(image.source, bytes)
        checked(row.key, image.source)
    yield Entry(row.key, document)
