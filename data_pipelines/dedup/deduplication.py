"""The passes of deduplication: signatures of every shard, decisions over all of them, every shard written again.

Signatures and writing are spread over workers; decisions are taken here, in the order of shards, so the result does not
depend on how many there are. What was found lies in `duplicates.jsonl`: a line for each document that is gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from data_pipelines.dedup.decisions import Decision, Limits, Place, decide
from data_pipelines.dedup.evaluation import collect, load
from data_pipelines.dedup.signatures import Signatures, read_signatures, sign_documents, write_signatures
from data_pipelines.errors import DocumentError
from data_pipelines.execution import Execution, run_tasks
from data_pipelines.report import Report, Tally
from data_pipelines.shard import ShardWriter, open_shard
from data_pipelines.shard_names import output_names
from data_pipelines.stores import STDIN
from data_pipelines.whole_file import whole_file

__all__ = ["FOUND", "Against", "Deduplication", "dedup_shards"]

FOUND = "duplicates.jsonl"
STATE = ".kosmos"

TaskT = TypeVar("TaskT")


@dataclass(frozen=True)
class Against:
    """An evaluation set: what reports call it, and its shards or JSONL file."""

    name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Deduplication:
    """What is looked for.

    Attributes:
        limits: what counts as a duplicate.
        min_words: documents of at least so many words are compared by them, shorter ones by their pictures.
        against: evaluation sets; what they hold is dropped.
    """

    limits: Limits = field(default_factory=Limits)
    min_words: int = 20
    against: tuple[Against, ...] = ()


def dedup_shards(
    paths: Sequence[str], out: Path, wanted: Deduplication, *, allow_pipe: bool = False, execution: Execution
) -> Report:
    """Copy shards into a folder without duplicates.

    Returns: what became of every document; what the evaluation sets hold stands among the notes.
    Raises: OSError; ShardError for a torn shard; ValueError for standard input, which cannot be read twice.
    """
    if STDIN in paths:
        raise ValueError("dedup reads its shards twice and cannot do so from standard input; give files")
    names = output_names(paths, out)
    job = {"verb": "dedup", "sources": list(paths), "options": asdict(wanted)}
    run = partial(_run, out=out, job=job, execution=execution)
    sets = [_Evaluation(one, out / STATE / "against" / f"{number}.npz") for number, one in enumerate(wanted.against)]
    looked_for = run(partial(_collect, allow_pipe), {f"against-{one.of.name}": one for one in sets})
    shards = [_Shard(path, out / STATE / "signatures" / f"{name}.npz", out / name) for path, name in names.items()]
    run(partial(_sign, wanted, tuple(sets), allow_pipe), {f"signatures-{one.target.name}": one for one in shards})
    signatures = [read_signatures(one.signatures) for one in shards]
    decisions = decide(signatures, wanted.limits)
    _write_found(decisions, signatures, [one.target.name for one in shards], out / FOUND)
    dropped: list[dict[int, str]] = [{} for _ in shards]
    for decision in decisions:
        dropped[decision.place.shard][decision.place.document] = decision.reason
    copies = {one.target.name: _Copy(one, gone) for one, gone in zip(shards, dropped, strict=True)}
    return looked_for + run(partial(_copy, allow_pipe), copies)


class _Evaluation(NamedTuple):
    """A set, and the file for what it holds."""

    of: Against
    hashes: Path


class _Shard(NamedTuple):
    """A shard, the file for its signatures, and its copy."""

    source: str
    signatures: Path
    target: Path


class _Copy(NamedTuple):
    """A shard, and which of its documents go, by number, and why."""

    shard: _Shard
    dropped: Mapping[int, str]


def _run(
    process: Callable[[TaskT], Report],
    tasks: Mapping[str, TaskT],
    *,
    out: Path,
    job: Mapping[str, object],
    execution: Execution,
) -> Report:
    return run_tasks(process, tasks, out, job=job, execution=execution)


def _collect(allow_pipe: bool, task: _Evaluation) -> Report:
    return collect(task.of.name, task.of.source, task.hashes, allow_pipe=allow_pipe)


def _sign(wanted: Deduplication, evaluation: Sequence[_Evaluation], allow_pipe: bool, task: _Shard) -> Report:
    sets = [load(one.of.name, one.hashes, wanted.limits.distance) for one in evaluation]
    signatures = sign_documents(task.source, sets, min_words=wanted.min_words, allow_pipe=allow_pipe)
    write_signatures(signatures, task.signatures)
    return Report(read=len(signatures.keys), written=len(signatures.keys))


def _copy(allow_pipe: bool, task: _Copy) -> Report:
    tally = Tally()
    with open_shard(task.shard.source, allow_pipe=allow_pipe) as shard, ShardWriter(task.shard.target) as writer:
        for number, sample in enumerate(shard):
            tally.read()
            if reason := task.dropped.get(number):
                tally.drop(reason, sample.key)
                continue
            try:
                writer.write_parts(sample.key, sample.parts)
                tally.wrote()
            except DocumentError as error:
                tally.drop(error.reason, sample.key)
    return tally.report()


def _write_found(
    decisions: Sequence[Decision], signatures: Sequence[Signatures], names: Sequence[str], path: Path
) -> None:
    def named(place: Place) -> dict[str, str]:
        return {"shard": names[place.shard], "key": signatures[place.shard].keys[place.document]}

    with whole_file(path) as file:
        for place, reason, original, score in decisions:
            line: dict[str, object] = {**named(place), "reason": reason}
            if original is not None:
                line |= {"original": named(original), "score": score}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
