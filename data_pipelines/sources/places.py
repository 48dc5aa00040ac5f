"""Paths a user names as files of this machine: patterns spelt out, what is elsewhere copied here for the while."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path, PurePosixPath

from braceexpand import braceexpand

from data_pipelines.stores import STDIN, is_local

__all__ = ["source_paths"]


@contextmanager
def source_paths(patterns: Sequence[str]) -> Iterator[tuple[Path, ...]]:
    """Files and folders that patterns stand for: braces, `*` and `?`; a file of a store is copied and goes away again.

    Raises: FileNotFoundError for a pattern that stands for nothing; ValueError for a folder of a store.
    """
    with tempfile.TemporaryDirectory(prefix="kosmos-source-") as folder:
        found: list[Path] = []
        for pattern in patterns:
            for number, one in enumerate(braceexpand(pattern)):
                found += _local(one) if is_local(one) else _copied(one, Path(folder, f"{len(found)}-{number}"))
        yield tuple(found)


def _local(pattern: str) -> list[Path]:
    found = sorted(glob(pattern, recursive=True)) if has_magic(pattern) and not Path(pattern).exists() else [pattern]
    if not found or not Path(found[0]).exists():
        raise FileNotFoundError(2, "no such file or folder", pattern)
    return [Path(path) for path in found]


def _copied(address: str, folder: Path) -> list[Path]:
    if address == STDIN or address.startswith("pipe:"):
        raise ValueError(f"{address!r} cannot be read by number, which a source needs; write it to a file first")
    import fsspec

    store, inside = fsspec.core.url_to_fs(address)
    names = sorted(store.glob(inside)) if has_magic(inside) else [inside]
    if not names:
        raise FileNotFoundError(2, "no such file", address)
    folder.mkdir()
    copies = []
    for name in names:
        copy = folder / PurePosixPath(name).name
        with store.open(name, "rb") as remote, open(copy, "wb") as here:
            shutil.copyfileobj(remote, here, 2**20)
        os.utime(copy, (0, 0))  # the time is part of what a rerun knows a source by
        copies.append(copy)
    return copies
