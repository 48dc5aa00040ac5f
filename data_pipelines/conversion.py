"""Convert: documents of shards in formats of others, a file for each shard; what a format cannot hold is counted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_pipelines.errors import DocumentError
from data_pipelines.execution import Execution, run_tasks
from data_pipelines.naming import clean_key
from data_pipelines.report import Report, Tally
from data_pipelines.shard import read_documents
from data_pipelines.shard_names import check_not_overwritten
from data_pipelines.sources.keys import unique_keys
from data_pipelines.stores import STDIN, is_local
from data_pipelines.targets.formats import load_target
from data_pipelines.targets.target import Place

__all__ = ["convert"]


@dataclass(frozen=True)
class _Shard:
    """A shard, and where its documents go."""

    path: str
    place: Place
    to: str
    allow_pipe: bool


def convert(shards: Sequence[str], out: Path, to: str, execution: Execution, *, allow_pipe: bool = False) -> Report:
    """Write the documents of shards in another format.

    Args:
        shards: paths or addresses, expanded.   to: name in the table of targets.
    Raises: ValueError for an unknown format, a torn shard, or a folder of another command's output; OSError.
    """
    load_target(to)
    stems = ["stdin" if path == STDIN else PurePosixPath(path).name.removesuffix(".tar") for path in shards]
    names = unique_keys(stems)
    for name, path in zip(names, shards, strict=True):
        check_not_overwritten(path, out / f"{name}.tar")
    tasks = {
        name: _Shard(path, Place(out, name, number), to, allow_pipe)
        for number, (name, path) in enumerate(zip(names, shards, strict=True))
    }
    job = {"verb": "convert", "to": to, "shards": [_identity(path) for path in shards]}
    return run_tasks(_convert_one, tasks, out, job=job, execution=execution)


def _convert_one(task: _Shard) -> Report:
    tally, seen = Tally(), set[str]()
    with load_target(task.to)(task.place) as write:
        for own, document in read_documents(task.path, allow_pipe=task.allow_pipe):
            tally.read()
            key = clean_key(own)
            try:
                if isinstance(document, DocumentError):
                    raise document
                if key in seen:
                    raise DocumentError(key, "duplicate key")
                notes = write(key, document)
            except DocumentError as error:
                tally.drop(error.reason, own)
                continue
            seen.add(key)
            tally.wrote()
            for kind in notes:
                tally.note(kind, own)
    return tally.report()


def _identity(path: str) -> list[object]:
    """What a rerun knows a shard by."""
    if not is_local(path):
        return [path]
    known = os.stat(path)
    return [PurePosixPath(path).name, known.st_size, known.st_mtime_ns]
