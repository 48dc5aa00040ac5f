"""Loader: shards to batches for one rank of a run, resumable to the document on any number of ranks and workers.

    loader = Loader({"caption": Stream(mixture=..., encoder=..., rows=2048)}, rank=0, ranks=1, workers=2)
    for batches in loader:                        # {"caption": whatever the encoder collates}
        ...
        saved = loader.state_dict()               # after this step; all ranks' together: loader.merge([...])

The stream has no end: epochs follow each other, each in another order. Of the bad documents none is lost silently: they
are counted by reason and logged, and a run with too many of them stops.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Generic, TypeVar

from data_pipelines.loader.dealing import Dealer
from data_pipelines.loader.lane import LaneState
from data_pipelines.loader.producing import Produced, Producer
from data_pipelines.loader.reading import Skipped
from data_pipelines.loader.state import LoaderState, merge_states
from data_pipelines.loader.stream import OpenStream, Stream
from data_pipelines.loader.workers import Workers
from data_pipelines.report import Report, Tally

__all__ = ["LANES", "Loader"]

LANES = 64  # ranks x workers that can share the reading without packing twice
ENOUGH = 200  # documents read before a share of bad ones means anything
WORST = 5  # shards named when there are too many

BatchT = TypeVar("BatchT")
_log = logging.getLogger(__name__)


class Loader(Generic[BatchT]):
    """Batches of every stream, a step at a time."""

    def __init__(
        self,
        streams: Mapping[str, Stream[Any, BatchT]],
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        prefetch: int = 2,
        lanes: int = LANES,
        max_skipped: float = 0.01,
    ) -> None:
        """
        Args:
            streams: by name; a step has a batch of each.
            rank, ranks: which share of the batches is wanted.
            workers: processes of this rank; 0 reads in this one.   prefetch: batches each makes ahead.
            lanes: what the run is cut into; the same for a run's whole life.
            max_skipped: share of documents that may be bad before the run stops.
        Raises: OSError, ValueError for shards that cannot be read and numbers that make no sense.
        """
        if not (0 <= rank < ranks and min(workers, seed) >= 0 and min(prefetch, lanes) >= 1 and 0 <= max_skipped <= 1):
            raise ValueError(
                f"seed={seed}, rank={rank} of ranks={ranks}, workers={workers}, prefetch={prefetch}, lanes={lanes},"
                f" max_skipped={max_skipped}; none is negative, prefetch and lanes are at least 1, max_skipped a share"
            )
        if not streams:
            raise ValueError("a loader needs at least one stream")
        self._streams = {name: OpenStream.open(stream) for name, stream in streams.items()}
        self._rank, self._ranks, self._workers, self._prefetch = rank, ranks, workers, prefetch
        self._max_skipped = max_skipped
        shapes = {name: stream.shape for name, stream in self._streams.items()}
        self._state = LoaderState(seed=seed, lanes=lanes, shapes=shapes, states={name: {} for name in streams})
        self._worst: Counter[str] = Counter()
        self._filled: Counter[str] = Counter()
        self._steps = 0

    def __iter__(self) -> Iterator[dict[str, BatchT]]:
        """Steps from where the state is; a second call begins at the last step taken.

        Raises: RuntimeError in an iterator that is older than the state: its steps would be counted as others.
        """
        with closing(self._produced()) as deals:
            state = self._state
            for produced in deals:
                if self._state is not state:
                    raise RuntimeError("the loader went on elsewhere or has another state; iterate over it anew")
                self._keep(produced)
                state = self._state
                yield dict(produced.batches)

    def state_dict(self) -> dict[str, object]:
        """Where this rank is, plain values; everything handed out counts as used."""
        return self._state.to_record()

    def load_state_dict(self, record: Mapping[str, object]) -> None:
        """Go on from a state: this rank's own if the number of ranks is the same, else `merge_states` of all.

        Raises: ValueError for a state of another run or other data, or one that lacks lanes this rank needs.
        """
        state = LoaderState.from_record(record)
        state.check_same_run(self._state)
        dealer = self._dealer(state)
        missing = [
            lane for lane in dealer.own if dealer.used(lane) and any(lane not in s for s in state.states.values())
        ]
        if missing:
            raise ValueError(f"the state lacks lanes {missing[:5]}; give merge_states of all ranks' states")
        self._state = replace(state, before=state.before + state.here, here=Report())

    def merge(self, records: Sequence[Mapping[str, Any]]) -> dict[str, object]:
        """The states of all ranks after the same step in one. Raises: ValueError if they are not that."""
        return merge_states(records)

    @property
    def report(self) -> Report:
        """What became of all documents so far, over the run's whole life, as far as this rank knows."""
        return self._state.before + self._state.here

    @property
    def fill(self) -> dict[str, float]:
        """Share of rows filled with documents since this loader began, by stream."""
        rows = {name: stream.spec.rows * max(1, self._steps) for name, stream in self._streams.items()}
        return {name: self._filled[name] / rows[name] for name in rows}

    def _dealer(self, state: LoaderState) -> Dealer:
        return Dealer(
            lanes=state.lanes,
            first=state.batches,
            rank=self._rank,
            ranks=self._ranks,
            workers=max(1, self._workers),
        )

    def _produced(self) -> Generator[Produced[BatchT], None, None]:
        state = self._state
        dealer = self._dealer(state)
        states: dict[str, dict[int, LaneState]] = {name: dict(lanes) for name, lanes in state.states.items()}
        producer = Producer(self._streams, lanes=state.lanes, seed=state.seed, states=states)
        if self._workers:
            with Workers(producer, dealer, prefetch=self._prefetch) as workers:
                yield from workers
        else:
            yield from map(producer.produce, dealer.deals())

    def _keep(self, produced: Produced[BatchT]) -> None:
        """Count a step as used."""
        state, tally = self._state, Tally()
        tally.read(produced.read)
        tally.wrote(produced.read - sum(one.whole for one in produced.skipped))
        for one in produced.skipped:
            _log.warning("passed over %s in %s: %s", one.key, one.shard, one.detail)
            (tally.drop if one.whole else tally.note)(one.reason, one.key)
            self._worst[one.shard] += 1
        for name, rows in produced.rows.items():
            self._filled[name] += rows
        self._steps += 1
        states = {name: {**lanes, produced.deal.lane: produced.states[name]} for name, lanes in state.states.items()}
        self._state = replace(
            state, batches=state.batches + self._ranks, states=states, here=state.here + tally.report()
        )
        self._check_skipped(produced.skipped)

    def _check_skipped(self, new: Sequence[Skipped]) -> None:
        report = self._state.here
        bad = sum(report.dropped.values()) + sum(report.noted.values())
        if new and report.read >= ENOUGH and bad > self._max_skipped * report.read:
            worst = ", ".join(f"{shard} ({count})" for shard, count in self._worst.most_common(WORST))
            raise ValueError(
                f"{bad} of {report.read} documents cannot be used, more than {self._max_skipped:.1%}; worst shards:"
                f" {worst}; look at them with `kosmos data lint`"
            )
