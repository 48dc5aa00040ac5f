"""A lane of a stream: windows of documents read ahead, packed, and handed out batch by batch.

A window is the longest run of documents that packs into so many batches. The lane's state is where the window in hand
begins and how many of its batches are gone; on resume the window is read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from data_pipelines.loader.blend import Taken
from data_pipelines.loader.encoder import Rows
from data_pipelines.loader.packing import pack
from data_pipelines.loader.reading import Origin, Read, Reader, Skipped

__all__ = ["Lane", "LaneBatch", "LaneState", "Piece"]

RowsT = TypeVar("RowsT", bound=Rows)
MAX_SKIPPED = 1000  # documents passed over one after the other; more is no stream but a fault


@dataclass(frozen=True)
class LaneState:
    """Where a lane is: `start` of the window in hand, how many of its batches are `gone`, and of all windows `used`."""

    start: Taken
    gone: int = 0
    used: int = 0


@dataclass(frozen=True)
class Piece(Generic[RowsT]):
    """Rows, and the document they are of."""

    rows: RowsT
    origin: Origin

    @property
    def length(self) -> int:
        """Rows."""
        return self.rows.length


@dataclass(frozen=True)
class LaneBatch(Generic[RowsT]):
    """One batch of one stream before pictures are opened.

    Attributes:
        skipped: documents passed over on the way here.   documents: read on the way here.
        after: the lane's state once this batch is used.
    """

    pieces: Sequence[Piece[RowsT]]
    skipped: Sequence[Skipped]
    documents: int
    after: LaneState


@dataclass(frozen=True)
class _Window(Generic[RowsT]):
    """Documents packed together, and the position behind them."""

    batches: Sequence[Sequence[Piece[RowsT]]]
    reads: Sequence[Read[RowsT]]

    @property
    def after(self) -> Taken:
        return self.reads[-1].after

    @property
    def skipped(self) -> list[Skipped]:
        return [read.skipped for read in self.reads if read.skipped]


class Lane(Generic[RowsT]):
    """One lane of one stream."""

    def __init__(self, reader: Reader[RowsT], number: int, state: LaneState, *, rows: int, look_ahead: int) -> None:
        """
        Args:
            rows: of a batch.   look_ahead: batches packed together.
        """
        self.state = state
        self._reader, self._number, self._rows, self._look_ahead = reader, number, rows, look_ahead
        self._window: _Window[RowsT] | None = None
        self._held: list[Read[RowsT]] = []  # read already, but of the next window

    def next(self) -> LaneBatch[RowsT]:
        """The next batch; `state` moves on."""
        start, gone, used = self.state.start, self.state.gone, self.state.used + 1
        if self._window is None:
            self._window = self._next_window(start)
        window = self._window
        if gone + 1 < len(window.batches):
            self.state = LaneState(start, gone + 1, used)
        else:
            self.state, self._window = LaneState(window.after, used=used), None
        # What was read and passed over is said once, with a window's first batch.
        skipped, documents = ((), 0) if gone else (window.skipped, len(window.reads))
        return LaneBatch(window.batches[gone], skipped, documents, self.state)

    def _next_window(self, start: Taken) -> _Window[RowsT]:
        reads = self._read_ahead(start)
        count, packed = self._pack(reads)
        self._held = reads[count:]
        window = _Window(packed, reads[:count])
        # In the order of packing all long documents would come first.
        draw = np.random.default_rng((self._reader.seed, self._number, *window.after.documents))
        return _Window([packed[batch] for batch in draw.permutation(len(packed))], window.reads)

    def _read_ahead(self, start: Taken) -> list[Read[RowsT]]:
        """At least as many documents as a window may hold."""
        reads: list[Read[RowsT]] = []
        rows, skipped = 0, 0
        for read in self._from(start):
            reads.append(read)
            rows += _rows(read)
            skipped = skipped + 1 if read.skipped else 0
            if rows >= self._look_ahead * self._rows:
                break
            if skipped >= MAX_SKIPPED and read.skipped:
                where, fault = read.skipped.shard, read.skipped.detail
                raise ValueError(f"{skipped} documents in a row cannot be used; the last, {where}: {fault}")
        return reads

    def _pack(self, reads: Sequence[Read[RowsT]]) -> tuple[int, list[list[Piece[RowsT]]]]:
        """A long run of documents that packs, and its batches."""
        count = len(reads)
        while isinstance(packed := self._packed(reads[:count]), int):
            while packed > 0 and count > 1:  # leave as many rows to the next window as found no room
                count -= 1
                packed -= _rows(reads[count])
        while count < len(reads) and not isinstance(more := self._packed(reads[: count + 1]), int):
            count, packed = count + 1, more
        return count, packed

    def _packed(self, reads: Sequence[Read[RowsT]]) -> list[list[Piece[RowsT]]] | int:
        pieces = [Piece(rows, read.origin) for read in reads for rows in read.pieces]
        # One document alone, but for those passed over, may have more pieces than a window has batches.
        alone = sum(1 for read in reads if read.pieces) <= 1
        batches = max(self._look_ahead, len(pieces)) if alone else self._look_ahead
        return pack(pieces, self._rows, batches, self._cut)

    def _cut(self, piece: Piece[RowsT], room: int) -> tuple[Piece[RowsT], Piece[RowsT]] | None:
        found = self._reader.encoder.cut(piece.rows, room)
        return found and (Piece(found[0], piece.origin), Piece(found[1], piece.origin))

    def _from(self, start: Taken) -> Iterator[Read[RowsT]]:
        held, self._held = self._held, []
        yield from held
        yield from self._reader.read(self._number, held[-1].after if held else start)


def _rows(read: Read[RowsT]) -> int:
    return sum(piece.length for piece in read.pieces)
