"""The first look at a source: which files there are, and what the first record of them holds.

Formats recognise themselves by it, so that files are opened for this once. Knows the meaning of no format.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.naming import split_name
from data_pipelines.schema import PICTURE_PARTS
from data_pipelines.shard import Shard
from data_pipelines.sources.lines import read_beginning
from data_pipelines.sources.parquet import column_names
from data_pipelines.sources.records import parse_object
from data_pipelines.sources.whole_files import load_json

__all__ = ["JSON_LINES", "Glimpse", "ending", "glimpse"]

log = logging.getLogger(__name__)

JSON_LINES = ("jsonl", "ndjson")
MAX_LOOK = 2**20  # bytes of a first line


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """What is seen of a source.

    Attributes:
        paths: files and folders as the user named them.
        files: all files, in the order of paths, sorted by name within a folder.
        record: the first record: of the JSON lines, else of the tars, the parquet files (names only) or the JSON.
        parts: part names of the first sample, of a tar or of files side by side.
        line: of files of plain text, the first.
    """

    paths: tuple[Path, ...]
    files: tuple[Path, ...]
    record: Mapping[str, object] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    line: str = ""

    def having(self, *endings: str) -> tuple[Path, ...]:
        """Files by the ending of their name, with or without .gz behind it."""
        return tuple(path for path in self.files if ending(path) in endings)

    def only(self, *endings: str) -> bool:
        """Whether there are files of these endings and no others."""
        return bool(self.files) and all(ending(path) in endings for path in self.files)

    @property
    def has_picture(self) -> bool:
        """Whether the first sample has one."""
        return not self.parts.isdisjoint(PICTURE_PARTS)


def ending(path: Path) -> str:
    """What a file's name ends in, in lower case, `.gz` aside: `jsonl` of `docs.jsonl.gz`; "" without a dot."""
    name = path.name.lower().removesuffix(".gz")
    return name.rpartition(".")[2] if "." in name else ""


def glimpse(paths: Sequence[Path]) -> Glimpse:
    """Look at files and folders.

    Raises: FileNotFoundError; ValueError for a source without files, and for a first file that is broken.
    """
    files = tuple(file for path in paths for file in _files(path))
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))} holds no files; give files, or a folder that holds some")
    bare = Glimpse(paths=tuple(paths), files=files)
    record, parts = _first_record(bare)
    return Glimpse(paths=bare.paths, files=files, record=record, parts=parts, line=_first_line(bare))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        os.stat(path)  # FileNotFoundError
        yield path
        return
    root = os.path.realpath(path)
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            found = Path(folder, name)
            if name.startswith("."):
                continue
            if found.is_symlink() and not os.path.realpath(found).startswith(root + os.sep):
                log.warning("left out: %s leads out of its folder; name the file itself if it is meant", found)
                continue
            yield found


def _first_record(bare: Glimpse) -> tuple[Mapping[str, object], frozenset[str]]:
    if lines := bare.having(*JSON_LINES):
        return _object(read_beginning(lines[0], MAX_LOOK, line=True)), frozenset()
    if tars := bare.having("tar"):
        return _first_sample(tars[0])
    if tables := bare.having("parquet"):
        return dict.fromkeys(column_names(tables[0])), frozenset()
    record = load_json(documents[0]) if (documents := bare.having("json")) else {}
    if isinstance(record, list):
        record = record[0] if record else {}
    return record if isinstance(record, dict) else {}, _first_neighbours(bare)


def _first_sample(path: Path) -> tuple[Mapping[str, object], frozenset[str]]:
    shard = Shard(path)
    try:
        sample = next(iter(shard), None)
    finally:
        shard.close()
    if sample is None:
        return {}, frozenset()
    return _object(sample.parts.get("json", b"")), frozenset(sample.parts)


def _first_neighbours(bare: Glimpse) -> frozenset[str]:
    """Part names of the files that share their stem with the first picture; none if it stands alone."""
    picture = next((path for path in bare.files if ending(path) in PICTURE_PARTS), None)
    found = split_name(picture.name) if picture else None
    if picture is None or found is None:
        return frozenset()
    names = (split_name(path.name) for path in bare.files if path.parent == picture.parent)
    parts = frozenset(name[1] for name in names if name and name[0] == found[0])
    return parts if len(parts) > 1 else frozenset()


def _first_line(bare: Glimpse) -> str:
    texts = bare.having("txt", "csv", "tsv", "token")
    if not texts:
        return ""
    return read_beginning(texts[0], MAX_LOOK, line=True).decode("utf-8-sig", "replace").rstrip("\r\n")


def _object(data: bytes) -> Mapping[str, object]:
    """A record, or none: a broken first line is found again, and counted, when everything is read."""
    try:
        return parse_object("first", data)
    except ValueError:
        return {}
