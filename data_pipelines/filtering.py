"""Filtering: rules in a row over every document of a shard, into a shard of the same name, with a count for each rule.

A document that no rule changes is copied byte for byte. What goes can be kept beside, with the reason in its `meta`
(`dropped`), for `preview` to show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import DocumentError
from data_pipelines.execution import Execution, keep_job, run_tasks
from data_pipelines.report import Report, Tally
from data_pipelines.rules.rule import Candidate
from data_pipelines.rules.table import RULES, Thresholds
from data_pipelines.schema import PICTURE_PARTS, parts_of_document
from data_pipelines.shard import Sample, ShardWriter, open_shard
from data_pipelines.shard_names import output_names
from text.document import Document

__all__ = ["DROPPED", "FilterTask", "Judged", "filter_shard", "filter_shards", "judge"]

DROPPED = "dropped"
"""Field of `meta` that says why a document is among the rejected."""


@dataclass(frozen=True, kw_only=True)
class FilterTask:
    """One shard's part of the work.

    Attributes:
        target: tar to write.   rejected: tar for what is dropped, if wanted.
    """

    source: str
    target: Path
    rejected: Path | None
    rules: Thresholds
    allow_pipe: bool = False


@dataclass(frozen=True)
class Judged:
    """What the rules made of a document.

    Attributes:
        document: as it is after the last rule that was asked.
        reason: why it is dropped, `RULE: words`; "" if it stays.
        changes: how many pieces each rule left out, by rule.
    """

    document: Document
    reason: str
    changes: Mapping[str, int]


def filter_shards(
    paths: Sequence[str],
    out: Path,
    rules: Thresholds,
    *,
    rejected: Path | None = None,
    allow_pipe: bool = False,
    execution: Execution,
) -> Report:
    """Filter shards into a folder.

    Args:
        rules: from `choose_rules`.
        rejected: folder for the dropped documents, in shards of the same names; this job's own, like `out`.
    Raises: OSError; ValueError for a folder of another job or of the shards themselves; ShardError for a torn shard
        (`kosmos data repair` makes a whole one of it).
    """
    names = output_names(paths, out)
    if rejected is not None and rejected.resolve() == out.resolve():
        raise ValueError(f"{rejected} is the folder of what is kept; give another one for what is dropped")
    tasks = {
        name: FilterTask(
            source=path,
            target=out / name,
            rejected=rejected / name if rejected else None,
            rules=rules,
            allow_pipe=allow_pipe,
        )
        for path, name in names.items()
    }
    job = {"verb": "filter", "sources": list(paths), "rules": [list(rule) for rule in rules], "rejected": str(rejected)}
    if rejected is not None:
        output_names(paths, rejected)
        keep_job(rejected, job | {"rejects of": str(out)})
    return run_tasks(filter_shard, tasks, out, job=job, execution=execution)


def filter_shard(task: FilterTask) -> Report:
    """Filter one shard. Raises: OSError, ShardError."""
    tally = Tally()
    with ExitStack() as stack:
        shard = stack.enter_context(open_shard(task.source, allow_pipe=task.allow_pipe))
        writer = stack.enter_context(ShardWriter(task.target))
        rejects = stack.enter_context(ShardWriter(task.rejected)) if task.rejected else None
        for sample in shard:
            tally.read()
            try:
                judged = judge(sample.key, sample.document(), task.rules)
                if judged.reason:
                    tally.drop(judged.reason, sample.key)
                    _reject(rejects, sample, judged.reason, tally)
                else:
                    writer.write_parts(sample.key, _parts(sample, judged))
                    tally.wrote()
                    for rule, count in judged.changes.items():
                        tally.note(f"{rule}: left out", sample.key, count)
            except DocumentError as error:
                tally.drop(error.reason, sample.key)
    return tally.report()


def judge(key: str, document: Document, rules: Thresholds) -> Judged:
    """Ask the rules in order, until one drops the document."""
    candidate, changes = Candidate(key, document), dict[str, int]()
    for name, threshold in rules:
        verdict = RULES[name].judge(candidate, threshold)
        if isinstance(verdict, str):
            return Judged(candidate.document, f"{name}: {verdict}", changes)
        if verdict is not candidate.document:
            changes[name] = len(candidate.document.segments) - len(verdict.segments)
            candidate = Candidate(key, verdict)
    return Judged(candidate.document, "", changes)


def _parts(sample: Sample, judged: Judged) -> Mapping[str, bytes]:
    if not judged.changes:
        return sample.parts
    others = {part: data for part, data in sample.parts.items() if not _is_document(part)}
    return {**parts_of_document(sample.key, judged.document), **others}


def _is_document(part: str) -> bool:
    """Whether the schema writes this part itself; what else lies in a sample (`npy`, `mp3`) is carried along."""
    return part in ("json", "txt") or part.rpartition(".")[2] in PICTURE_PARTS


def _reject(rejects: ShardWriter | None, sample: Sample, reason: str, tally: Tally) -> None:
    """Keep a dropped document as it came, with the reason."""
    if rejects is None:
        return
    document = sample.document()
    try:
        rejects.write(sample.key, Document(document.segments, {**document.meta, DROPPED: reason}))
    except DocumentError as error:  # counted as dropped already
        tally.note(f"dropped and not kept: {error.reason}", sample.key)
