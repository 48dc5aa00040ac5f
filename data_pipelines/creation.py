"""Create: shards of documents from a source in any foreign format.

Shard k holds what entries k * n to (k + 1) * n of the source give, whoever writes it, so that workers need no word
from each other and a rerun gives the same bytes. Knows no format; `sources.formats` is their table.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipelines.errors import DocumentError
from data_pipelines.execution import Execution, run_tasks
from data_pipelines.report import Report, Tally
from data_pipelines.shard import ShardWriter
from data_pipelines.shard_names import check_not_overwritten
from data_pipelines.sources.formats import find_format, load_source
from data_pipelines.sources.glimpse import Glimpse, glimpse
from data_pipelines.sources.source import Entry, Opened, Options
from text.document import Document

__all__ = ["Creation", "create", "plan"]


@dataclass(frozen=True, kw_only=True)
class Creation:
    """A source, opened, and how it is to be cut into shards.

    Attributes:
        format: name in the table of formats.   guessed: whether nobody said so.
        per_shard: entries of the source for each shard.   name: what shards are called, before their number.
    """

    first: Glimpse
    format: str
    guessed: bool
    options: Options
    opened: Opened
    per_shard: int
    name: str


@dataclass(frozen=True)
class _Slice:
    """Entries `start` to `stop` of a source, and the shard they become."""

    opened: Opened
    start: int
    stop: int
    shard: Path
    split: str | None


def plan(
    paths: Sequence[Path], options: Options, *, format: str = "", per_shard: int = 1_000, name: str = ""
) -> Creation:
    """Find out what a source is and open it; nothing is written.

    Args:
        format: overrules what is found; "" to find out.   name: of the shards, "" for the source's own.
    Raises: ValueError, OSError.
    """
    first = glimpse(paths)
    found = format or ("captioned" if options.captions or options.questions else find_format(first))
    opened = load_source(found).open(first, options)
    if not len(opened):
        raise ValueError(f"{paths[0]} holds no documents, read as {found}; say what it is by --format")
    return Creation(
        first=first,
        format=found,
        guessed=not format,
        options=options,
        opened=opened,
        per_shard=per_shard,
        name=name or "documents",
    )


def create(creation: Creation, out: Path, execution: Execution) -> Report:
    """Write the shards `OUT/NAME-000000.tar`, each with its index.

    Raises: ValueError for a folder that holds another command's output, or lies in the source; OSError.
    """
    _check_apart(creation.first.paths, out)
    opened, size = creation.opened, creation.per_shard
    tasks = {}
    for number, start in enumerate(range(0, len(opened), size)):
        name = f"{creation.name}-{number:06d}"
        stop = min(start + size, len(opened))
        for path in creation.first.paths:
            check_not_overwritten(str(path), out / f"{name}.tar")
        tasks[name] = _Slice(opened, start, stop, out / f"{name}.tar", creation.options.split)
    return run_tasks(_write, tasks, out, job=_job(creation), execution=execution)


def _check_apart(sources: Sequence[Path], out: Path) -> None:
    """A source that holds its own output would be another one at the next run."""
    for source in sources:
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"{out} lies in the source {source}; give a folder outside of it")


def _write(task: _Slice) -> Report:
    tally = Tally()
    with ShardWriter(task.shard) as writer:
        for entry in task.opened.read(task.start, task.stop):
            tally.read()
            try:
                writer.write(entry.key, _wanted(entry, task.split))
            except DocumentError as error:
                tally.drop(error.reason, entry.key)
                continue
            tally.wrote()
            for kind in entry.notes:
                tally.note(kind, entry.key)
    return tally.report()


def _wanted(entry: Entry, split: str | None) -> Document:
    if isinstance(entry.document, DocumentError):
        raise entry.document
    if split is not None and entry.document.meta.get("split") != split:
        raise DocumentError(entry.key, "another split")
    return entry.document


def _job(creation: Creation) -> dict[str, object]:
    """What decides the output; the number of workers does not."""
    options = {
        name: str(value) if isinstance(value, Path) else value for name, value in asdict(creation.options).items()
    }
    return {
        "verb": "create",
        "sources": [path.name for path in creation.first.paths],
        "files": _identity(creation.first.files),
        "format": creation.format,
        "options": options,
        "per_shard": creation.per_shard,
        "name": creation.name,
    }


def _identity(files: Sequence[Path]) -> str:
    """Names, sizes and times of all files in one number: a source that changed is another source."""
    seen = hashlib.sha256()
    for path in files:
        known = os.stat(path)
        seen.update(f"{path.name}\0{known.st_size}\0{known.st_mtime_ns}\n".encode())
    return seen.hexdigest()
