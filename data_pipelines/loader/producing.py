"""Producing: one deal at a time, the batches of all streams from one lane; what a worker process does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar  # Any: rows of whatever kind each stream's own encoder makes

from data_pipelines.loader.dealing import Deal
from data_pipelines.loader.lane import Lane, LaneBatch, LaneState
from data_pipelines.loader.reading import Skipped
from data_pipelines.loader.stream import OpenStream

__all__ = ["Produced", "Producer"]

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Produced(Generic[BatchT]):
    """A finished deal.

    Attributes:
        batches: of each stream by name; absent if every document of it turned out to be bad.
        states: of the deal's lane once the batches are used, by stream.
        read: documents read on the way.   skipped: those passed over.   rows: that were filled, by stream.
    """

    deal: Deal
    batches: Mapping[str, BatchT]
    states: Mapping[str, LaneState]
    read: int
    skipped: Sequence[Skipped]
    rows: Mapping[str, int]


class Producer(Generic[BatchT]):
    """Lanes and where they are. Pickles before first use."""

    def __init__(
        self,
        streams: Mapping[str, OpenStream[Any, BatchT]],
        *,
        lanes: int,
        seed: int,
        states: Mapping[str, Mapping[int, LaneState]],
    ) -> None:
        """
        Args:
            states: of lanes that have begun, by stream.
        """
        self._streams = streams
        self._readers = {name: stream.reader(name, lanes=lanes, seed=seed) for name, stream in streams.items()}
        self._states = states
        self._lanes: dict[int, dict[str, Lane[Any]]] = {}

    def produce(self, deal: Deal) -> Produced[BatchT]:
        """The batches of a deal. Deals of a lane come in order; those of other ranks may be left out."""
        lanes = self._lane(deal.lane)
        for lane in lanes.values():
            while lane.state.used < deal.turn:  # belongs to another rank: packed, never opened
                lane.next()
        packed = {name: lane.next() for name, lane in lanes.items()}
        skipped = [one for batch in packed.values() for one in batch.skipped]
        batches, rows = {}, {}
        for name, batch in packed.items():
            opened = self._opened(name, batch, skipped)
            rows[name] = sum(piece.length for piece in opened)
            if opened:
                batches[name] = self._streams[name].spec.encoder.collate(opened)
        states = {name: batch.after for name, batch in packed.items()}
        read = sum(batch.documents for batch in packed.values())
        return Produced(deal, batches, states, read, skipped, rows)

    def _lane(self, number: int) -> Mapping[str, Lane[Any]]:
        if number not in self._lanes:
            self._lanes[number] = {
                name: Lane(
                    reader,
                    number,
                    self._states[name].get(number) or LaneState(reader.blend.start()),
                    rows=self._streams[name].spec.rows,
                    look_ahead=self._streams[name].spec.look_ahead,
                )
                for name, reader in self._readers.items()
            }
        return self._lanes[number]

    def _opened(self, name: str, batch: LaneBatch[Any], skipped: list[Skipped]) -> list[Any]:
        encoder, reader, opened = self._streams[name].spec.encoder, self._readers[name], []
        for piece in batch.pieces:
            origin = piece.origin
            try:
                opened.append(encoder.open_pictures(piece.rows, partial(reader.pictures, origin)))
            except ValueError as error:
                reason = "picture cannot be read"
                skipped.append(Skipped(reason, origin.key, origin.shard, str(error), whole=False))
        return opened
