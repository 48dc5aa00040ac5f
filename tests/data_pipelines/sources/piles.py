"""Piles of files as other projects leave them, drawn here; and a short way to read one."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from PIL import Image as Pillow

from data_pipelines.creation import plan
from data_pipelines.errors import DocumentError
from data_pipelines.sources.source import Entry, Options
from text.document import Control, Document, Image, Segment, Text


@cache
def photo(shade: int, kind: str = "JPEG", size: tuple[int, int] = (12, 8)) -> bytes:
    """A small picture whose bytes tell one shade from another."""
    encoded = io.BytesIO()
    Pillow.new("RGB", size, (shade, 255 - shade, shade)).save(encoded, kind)
    return encoded.getvalue()


def put(path: Path, content: bytes | str | object) -> Path:
    """A file of bytes, of words, or of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def put_lines(path: Path, records: Iterable[object]) -> Path:
    """JSON lines."""
    return put(path, "".join(json.dumps(record) + "\n" for record in records))


def put_tar(path: Path, members: Mapping[str, bytes | object]) -> Path:
    """A tar; what is not bytes becomes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def entries(*paths: Path, options: Options = Options(), format: str = "") -> list[Entry]:  # noqa: B008  (frozen)
    """All a source gives, its format found out unless said."""
    opened = plan(paths, options, format=format).opened
    return list(opened.read(0, len(opened)))


def found(*paths: Path) -> str:
    """The format a source is taken for."""
    return plan(paths, Options()).format


def said(entry: Entry) -> list[str | bytes]:
    """Words and pictures of a document in order; what is read and not learnt in brackets, special tokens by name."""
    assert isinstance(entry.document, Document), entry.document
    return [_said(segment) for segment in entry.document.segments]


def reason(entry: Entry) -> str:
    """Why there is no document."""
    assert isinstance(entry.document, DocumentError), entry.document
    return entry.document.reason


def _said(segment: Segment) -> str | bytes:
    if isinstance(segment, Text):
        return segment.text if segment.loss else f"[{segment.text}]"
    if isinstance(segment, Control):
        return segment.name
    assert isinstance(segment, Image)
    assert isinstance(segment.source, bytes)
    return segment.source
