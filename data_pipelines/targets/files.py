"""Files that targets share: JSON lines, and pictures in a folder that no key leads out of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import DocumentError
from data_pipelines.naming import is_portable
from data_pipelines.targets.target import EncodedPicture, Place
from data_pipelines.whole_file import TEMPORARY, whole_file

__all__ = ["json_lines", "put_file", "put_picture", "to_json"]


def to_json(record: object) -> str:
    """One line, the same for the same record."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


@contextmanager
def json_lines(place: Place) -> Iterator[Callable[[object], None]]:
    """A function that adds a record to `NAME.jsonl`."""
    with whole_file(place.folder / f"{place.name}.jsonl") as file:

        def add(record: object) -> None:
            file.write(to_json(record).encode() + b"\n")

        yield add


def put_picture(place: Place, key: str, number: int, picture: EncodedPicture) -> str:
    """Write a picture. Returns: its path below the output's folder.

    Raises: DocumentError for a key that could lead elsewhere.
    """
    if not is_portable(key):
        raise DocumentError(key, "key is not portable")
    name = f"images/{place.name}/{key}.{number}.{picture.ending}"
    put_file(place.folder, name, picture.data)
    return name


def put_file(folder: Path, name: str, data: bytes) -> None:
    """Write one of very many files below a folder; the name is the caller's own, or of a portable key."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not synced as `whole_file` does: what says that they are there (a list, a marker) is, and it appears after them.
    temporary = path.with_name(path.name + TEMPORARY)
    temporary.write_bytes(data)
    os.replace(temporary, path)
