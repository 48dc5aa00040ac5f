"""Everything that is wrong with shards, found and never touched: the tar, its index, its names, its documents.

A shard is read to its end, past every tear; a key that an earlier shard has already is found at the end of all.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from data_pipelines.errors import ShardError
from data_pipelines.execution import Engine
from data_pipelines.index import index_path, is_fresh, read_index, sample_starts
from data_pipelines.inspection import DUPLICATE, STRAY, UNSAFE, Finding, inspect_document, is_unsafe
from data_pipelines.key_census import KeyCensus, Keys, hashed
from data_pipelines.naming import split_name
from data_pipelines.shard import Shard, open_shard
from data_pipelines.shard_pool import each_shard
from data_pipelines.stores import STDIN, is_local
from data_pipelines.survey import Survey, survey
from data_pipelines.tar import Member, members

__all__ = ["Linted", "keys_of", "lint"]


@dataclass(frozen=True, kw_only=True)
class Linted:
    """What was found in one shard, by place.

    Attributes:
        documents: in it, sound or not; 0 in what comes at the end of all about the same shard once more.
    """

    shard: str
    documents: int = 0
    findings: Sequence[Finding] = ()
    keys: Keys = field(default=(b"", ()), repr=False)


def lint(
    paths: Sequence[str],
    *,
    decode: bool = True,
    workers: int = 1,
    engine: Engine = "local",
    allow_pipe: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> Iterator[Linted]:
    """Look at shards; memory stays small for any number of documents.

    Args:
        paths: as `stores.expand` gives them.
        decode: whether every picture is decoded.
        told: hears of (shards done, shards in all).
    Yields: one record a shard, in order, then one for each shard that holds keys of earlier ones.
    Raises: OSError for a shard that cannot be fetched.
    """
    ask = partial(_lint_one, decode=decode, allow_pipe=allow_pipe)
    with KeyCensus() as census:
        for done, linted in enumerate(each_shard(ask, paths, workers=workers, engine=engine), 1):
            if told is not None:
                told(done, len(paths))
            census.add(linted.keys)
            yield linted
        for number, starts in census.repeated().items():
            yield Linted(shard=paths[number], findings=_repeated(paths[number], starts, allow_pipe=allow_pipe))


def keys_of(whole: Survey) -> Keys:
    """What a census of keys wants to know of a shard."""
    documents = [found for found in whole.documents if not found.repeated]
    return hashed(found.key for found in documents), array("Q", [found.start for found in documents])


def _lint_one(path: str, *, decode: bool, allow_pipe: bool) -> Linted:
    with open_shard(path, allow_pipe=allow_pipe) as shard:
        whole = survey(shard.archive, path)
        findings = [Finding(path, "", tear.start, tear.reason, f"{tear.lost} bytes lost") for tear in whole.tears]
        findings += _index_findings(shard)
        findings += (finding for member in whole.strays if (finding := _stray(path, member)) is not None)
        for found in whole.documents:
            findings += inspect_document(found, shard.archive, path, decode=decode)
    findings.sort(key=lambda finding: finding.offset)
    return Linted(shard=path, documents=len(whole.documents), findings=findings, keys=keys_of(whole))


def _stray(path: str, member: Member) -> Finding | None:
    if is_unsafe(member.name):
        return Finding(path, member.name, member.start, UNSAFE, member.name)
    if member.name.startswith("__"):  # where readers look for notes about a whole shard
        return None
    return Finding(path, member.name, member.start, STRAY, "readers pass over it")


def _index_findings(shard: Shard) -> list[Finding]:
    beside = index_path(shard.path)
    if not is_local(shard.name) or not beside.exists():
        return []
    if not is_fresh(shard.path):
        return [Finding(shard.name, "", 0, "stale index", f"{beside.name} is older than the tar")]
    try:
        true = sample_starts(shard.archive, shard.name)
    except ShardError as error:
        return [Finding(shard.name, "", error.offset, "index mismatch", "a torn tar has an index")]
    stated = read_index(shard.path)
    if stated == true:
        return []
    wrong = next((a for a, b in zip(true, stated or (), strict=False) if a != b), 0)
    return [Finding(shard.name, "", wrong, "index mismatch", f"{beside.name} states other places")]


def _repeated(path: str, starts: Sequence[int], *, allow_pipe: bool) -> list[Finding]:
    """The census knows places only; keys are read again, but for standard input, which is gone."""
    detail = "a document of an earlier shard has it"
    if path == STDIN:
        return [Finding(path, "", start, DUPLICATE, detail) for start in starts]
    with open_shard(path, allow_pipe=allow_pipe) as shard:
        names = [next(members(shard.archive, path, start)).name for start in starts]
    return [
        Finding(path, (split_name(name) or (name, ""))[0], start, DUPLICATE, detail)
        for name, start in zip(names, starts, strict=True)
    ]
