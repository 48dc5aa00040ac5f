"""A mixture written out: new shards whose documents stand in the mixture's proportion, in a seeded order.

Every component is drawn without repetition until its epoch ends, each epoch in an order of its own. Which document
stands where follows from the seed alone, so shards are made in any order by any number of workers.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from data_pipelines.errors import DocumentError
from data_pipelines.execution import Execution, run_tasks
from data_pipelines.mixing import Contents, Share, shares
from data_pipelines.mixture import Mixture
from data_pipelines.report import Report, Tally
from data_pipelines.shard import ShardWriter
from data_pipelines.shard_set import ShardSet

__all__ = ["write_mixture"]

SHARD_DOCUMENTS = 1000
_HERE = Execution()


@dataclass(frozen=True)
class _Source:
    """A component as a worker needs it."""

    name: str
    paths: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Shard:
    """One shard to write.

    Attributes:
        first: place of its first document in the whole stream.
        components, numbers: of its documents, in order.
    """

    path: Path
    first: int
    components: array[int]
    numbers: array[int]


def write_mixture(
    mixture: Mixture,
    contents: Sequence[Contents],
    out: Path,
    *,
    documents: int,
    seed: int = 0,
    shard_documents: int = SHARD_DOCUMENTS,
    execution: Execution = _HERE,
) -> Report:
    """Write `out/mixed-000000.tar` and so on.

    A document gets the key of its place and `meta.mixed`: the component and key it had. A broken one is dropped and
    counted; `noted` says how many came from where.

    Args:
        contents: `mixing.measure` of every component.
        documents: how many to draw.
    Raises: OSError; ShardError; ValueError for a folder that holds something else.
    """
    counts = _apportion(documents, shares(mixture, contents))
    sources = tuple(_Source(part.component.name, part.paths, part.counts) for part in contents)
    tasks = {shard.path.stem: shard for shard in _shards(contents, counts, out, seed, shard_documents)}
    job = {
        "verb": "mix",
        "by": mixture.by,
        "components": [{**asdict(part.component), "paths": part.paths, "counts": part.counts} for part in contents],
        "drawn": counts,
        "seed": seed,
        "shard_documents": shard_documents,
    }
    return run_tasks(partial(_write, sources), tasks, out, job=job, execution=execution)


def _apportion(documents: int, parts: Sequence[Share]) -> list[int]:
    """Whole numbers in proportion that sum to `documents`: what is left over goes to the largest remainders."""
    wanted = [documents * part.by_document for part in parts]
    counts = [int(number) for number in wanted]
    order = sorted(range(len(parts)), key=lambda place: counts[place] - wanted[place])
    for place in order[: documents - sum(counts)]:
        counts[place] += 1
    return counts


def _shards(
    contents: Sequence[Contents], counts: Sequence[int], out: Path, seed: int, shard_documents: int
) -> Iterator[_Shard]:
    turns = array("H" if len(counts) < 2**16 else "L")
    for place, count in enumerate(counts):
        turns.extend([place] * count)
    random.Random(f"{seed}/turns").shuffle(turns)
    streams = [_numbers(part.documents, f"{seed}/{part.component.name}") for part in contents]
    for index, first in enumerate(range(0, len(turns), shard_documents)):
        own = turns[first : first + shard_documents]
        yield _Shard(out / f"mixed-{index:06d}.tar", first, own, array("Q", (next(streams[place]) for place in own)))


def _numbers(documents: range, seed: str) -> Iterator[int]:
    """A component's documents epoch after epoch, each in an order of its own."""
    epoch = 0
    while True:
        order = array("Q", documents)
        random.Random(f"{seed}/{epoch}").shuffle(order)
        yield from order
        epoch += 1


def _write(sources: Sequence[_Source], shard: _Shard) -> Report:
    tally = Tally()
    with ExitStack() as stack, ShardWriter(shard.path) as writer:
        sets = [stack.enter_context(ShardSet(source.paths, source.counts)) for source in sources]
        for place, (component, number) in enumerate(zip(shard.components, shard.numbers, strict=True), shard.first):
            sample, name = sets[component][number], sources[component].name
            tally.read()
            try:
                document = sample.document()
                origin = {"component": name, "key": sample.key}
                writer.write(f"{place:09d}", replace(document, meta={**document.meta, "mixed": origin}))
            except DocumentError as error:
                tally.drop(error.reason, sample.key)
                continue
            tally.wrote()
            tally.note(f"from {name}", sample.key)
    return tally.report()
