"""A shard converted, and what `create` reads from the output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_pipelines.conversion import convert
from data_pipelines.execution import Execution
from data_pipelines.report import Report
from data_pipelines.shard import ShardWriter
from data_pipelines.sources.source import Options
from tests.data_pipelines.sources.piles import entries
from text.document import Document, Image, Segment


def converted(tmp_path: Path, to: str, *shards: Mapping[str, Document]) -> Report:
    """Shards of documents, converted into `tmp_path/out`; every document stands in the report."""
    paths = [tmp_path / f"set-{number}.tar" for number in range(len(shards))]
    for path, documents in zip(paths, shards, strict=True):
        with ShardWriter(path) as writer:
            for key, document in documents.items():
                writer.write(key, document)
    report = convert([str(path) for path in paths], tmp_path / "out", to, Execution())
    assert report.balanced
    assert report.read == sum(map(len, shards))
    return report


def read_back(tmp_path: Path) -> list[Document]:
    """The documents of `tmp_path/out`, its format found out."""
    documents = []
    for entry in entries(tmp_path / "out", options=Options(verbatim=True)):
        assert isinstance(entry.document, Document), entry.document
        documents.append(entry.document)
    return documents


def plain(document: Document) -> list[Segment]:
    """Segments without what a reader adds to pictures."""
    return [Image(one.source) if isinstance(one, Image) else one for one in document.segments]
