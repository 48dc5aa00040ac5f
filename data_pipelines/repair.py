"""Shards made whole: the good documents in new shards of the same names, the bad in `quarantine/` with their reasons.

Every document found is written or quarantined. Members that stand apart are brought together and keys that are not
portable are renamed, because that loses nothing; all other findings of `lint` quarantine the document. Of documents
with one key the first has it, even if it is bad.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipelines.errors import DocumentError
from data_pipelines.execution import Execution, run_tasks
from data_pipelines.inspection import DUPLICATE, NOT_ADJACENT, NOT_PORTABLE, Finding, inspect_document
from data_pipelines.key_census import KeyCensus, Keys
from data_pipelines.lint import keys_of
from data_pipelines.naming import clean_key, is_portable
from data_pipelines.quarantine import Judged, write_quarantine
from data_pipelines.report import Report, Tally
from data_pipelines.schema import document_of_parts, parts_of_document
from data_pipelines.shard import ShardWriter, open_shard
from data_pipelines.shard_names import check_not_overwritten
from data_pipelines.shard_pool import each_shard
from data_pipelines.stores import STDIN
from data_pipelines.survey import Found, Survey, survey
from data_pipelines.tar import Buffer

__all__ = ["QUARANTINE", "repair"]

QUARANTINE = "quarantine"
MENDED = {NOT_ADJACENT, NOT_PORTABLE}  # reasons that do not cost a document its place


@dataclass(frozen=True)
class _Task:
    """A shard to repair.

    Attributes:
        name: of what is written, without ending.
        repeated: places of documents whose key an earlier shard has.
    """

    source: str
    name: str
    repeated: tuple[int, ...]


def repair(
    paths: Sequence[str],
    out: Path,
    *,
    root: Path | None = None,
    decode: bool = True,
    allow_pipe: bool = False,
    execution: Execution | None = None,
) -> Report:
    """Write what is good of shards into a folder, what is bad into its quarantine.

    Args:
        paths: as `stores.expand` gives them; read twice, first for keys that come in several shards.
        root: folder the shards keep their places below; None gives them their bare names.
        decode: whether pictures must decode to be good.
    Returns: documents by reason; under `noted` also tears, and the bytes lost with them.
    Raises: ValueError for shards that would be written over each other or over themselves.
    """
    execution = execution or Execution()
    names = _names(paths, root, out)
    repeated = _repeated(paths, allow_pipe=allow_pipe, execution=execution)
    tasks = {
        name: _Task(path, name, tuple(repeated.get(number, ())))
        for number, (path, name) in enumerate(zip(paths, names, strict=True))
    }
    job = {"verb": "repair", "shards": list(paths), "decode": decode}
    work = partial(_repair_one, out=out, decode=decode, allow_pipe=allow_pipe)
    return run_tasks(work, tasks, out, job=job, execution=execution)


def _names(paths: Sequence[str], root: Path | None, out: Path) -> list[str]:
    """What is written for each shard, below `out` and without ending."""
    if STDIN in paths:
        raise ValueError("repair reads shards twice, and standard input can be read once; write it to a file first")
    names = []
    for path in paths:
        inside = os.path.relpath(path, root) if root is not None else path.rpartition("/")[2]
        names.append(inside.removesuffix(".tar"))
        check_not_overwritten(path, out / f"{names[-1]}.tar")
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise ValueError(f"several shards are called {twice[0]}.tar; repair them into folders of their own")
    return names


def _repeated(paths: Sequence[str], *, allow_pipe: bool, execution: Execution) -> Mapping[int, Sequence[int]]:
    ask = partial(_keys_of_one, allow_pipe=allow_pipe)
    with KeyCensus() as census:
        for keys in each_shard(ask, paths, workers=execution.workers, engine=execution.engine):
            census.add(keys)
        return census.repeated()


def _keys_of_one(path: str, *, allow_pipe: bool) -> Keys:
    with open_shard(path, allow_pipe=allow_pipe) as shard:
        return keys_of(survey(shard.archive, path))


def _repair_one(task: _Task, *, out: Path, decode: bool, allow_pipe: bool) -> Report:
    tally = Tally()
    with open_shard(task.source, allow_pipe=allow_pipe) as shard:
        whole = survey(shard.archive, task.source)
        tally.read(len(whole.documents))
        good, bad = _parted(whole, shard.archive, task, decode=decode)
        for found, findings in good:
            for finding in findings:
                tally.note(f"mended: {finding.reason}", found.key)
        for found, findings in bad:
            tally.drop(findings[0].reason, found.key)
        _write_good(out / f"{task.name}.tar", [found for found, _ in good], shard.archive)
        write_quarantine(out / QUARANTINE / task.name, bad, whole, shard.archive, task.source)
    tally.wrote(len(good))
    for tear in whole.tears:
        tally.note(f"tear: {tear.reason}", f"{task.source}:{tear.start}")
    for stray in whole.strays:
        tally.note("file of no document left out", stray.name)
    if lost := sum(tear.lost for tear in whole.tears):
        tally.note("bytes lost in tears", task.source, lost)
    return tally.report()


def _parted(whole: Survey, archive: Buffer, task: _Task, *, decode: bool) -> tuple[list[Judged], list[Judged]]:
    """Documents to keep and documents to quarantine, each with all that was found."""
    good, bad = [], []
    repeated = set(task.repeated)
    for found in whole.documents:
        findings = inspect_document(found, archive, task.source, decode=decode)
        if found.start in repeated:
            findings.append(Finding(task.source, found.key, found.start, DUPLICATE, "an earlier shard has it"))
        serious = [finding for finding in findings if finding.reason not in MENDED]
        if not serious:
            try:
                _mended(found, archive)
            except DocumentError as error:
                serious.append(Finding(task.source, found.key, found.start, error.reason, error.detail))
        if serious:
            bad.append((found, serious))
        else:
            good.append((found, findings))
    return good, bad


def _mended(found: Found, archive: Buffer) -> tuple[str, Mapping[str, bytes]]:
    """Key and parts to write: as they are, unless the key has to change. Raises: DocumentError."""
    parts = found.contents(archive)
    if is_portable(found.key):
        return found.key, parts
    key = clean_key(found.key)
    if b'"segments"' not in parts.get("json", b""):
        return key, parts
    return key, parts_of_document(key, document_of_parts(found.key, parts))  # its pictures are called after its key


def _write_good(path: Path, good: Sequence[Found], archive: Buffer) -> None:
    if not good:  # an empty tar would stop readers that want a sample of every shard
        return
    with ShardWriter(path) as writer:
        for found in good:
            writer.write_parts(*_mended(found, archive))
