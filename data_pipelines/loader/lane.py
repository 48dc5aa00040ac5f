"""A lane of a stream: windows of documents read ahead, packed, and handed out batch by batch.

Its state is where the window in hand begins and how many of its batches are gone; on resume the window is read again.
A window ends where the next document would overfill so many batches, so that packing leaves little room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from data_pipelines.loader.blend import Taken
from data_pipelines.loader.encoder import Rows
from data_pipelines.loader.packing import pack
from data_pipelines.loader.reading import Read, Reader, Skipped

__all__ = ["Lane", "LaneBatch", "LaneState"]

RowsT = TypeVar("RowsT", bound=Rows)
FULL = 0.99  # of a window's rows are filled with documents; the rest is what packing cannot fill
MAX_SKIPPED = 1000  # documents passed over in one window; more is no stream but a fault


@dataclass(frozen=True)
class LaneState:
    """Where a lane is: `start` of the window in hand, and how many of its batches are `gone`."""

    start: Taken
    gone: int = 0


@dataclass(frozen=True)
class LaneBatch(Generic[RowsT]):
    """One batch of one stream before pictures are opened.

    Attributes:
        pieces: rows with the key and shard they come from.   skipped: documents passed over on the way here.
        after: the lane's state once this batch is used.   documents: read on the way here.
    """

    pieces: Sequence[tuple[RowsT, str, str]]
    skipped: Sequence[Skipped]
    documents: int
    after: LaneState


@dataclass(frozen=True)
class _Window(Generic[RowsT]):
    """Documents packed together.

    Attributes:
        batches: indices into `pieces`.   after: the position behind the window.
    """

    pieces: Sequence[tuple[RowsT, str, str]]
    batches: Sequence[Sequence[int]]
    skipped: Sequence[Skipped]
    documents: int
    after: Taken


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
        self._held: Read[RowsT] | None = None  # the document that did not fit the last window

    def next(self) -> LaneBatch[RowsT]:
        """The next batch; `state` moves on."""
        start, gone = self.state.start, self.state.gone
        if self._window is None:
            self._window = self._read_window(start)
        window = self._window
        pieces = [window.pieces[index] for index in window.batches[gone]]
        first = gone == 0  # what was read and passed over is said once, with a window's first batch
        if gone + 1 < len(window.batches):
            self.state = LaneState(start, gone + 1)
        else:
            self.state, self._window = LaneState(window.after), None
        return LaneBatch(pieces, window.skipped if first else (), window.documents if first else 0, self.state)

    def _read_window(self, start: Taken) -> _Window[RowsT]:
        full = FULL * self._look_ahead * self._rows
        pieces: list[tuple[RowsT, str, str]] = []
        skipped: list[Skipped] = []
        rows, documents, after = 0, 0, start
        for read in self._from(start):
            length = sum(piece.length for piece in read.pieces)
            if pieces and rows + length > full:
                self._held = read
                break
            documents, after, rows = documents + 1, read.after, rows + length
            pieces += [(piece, read.key, read.shard) for piece in read.pieces]
            if read.skipped:
                skipped.append(read.skipped)
                _check(skipped)
        batches = pack([piece.length for piece, _, _ in pieces], self._rows)
        # In the order of packing all long documents would come first.
        shuffled = np.random.default_rng((self._reader.seed, self._number, *after.documents)).permutation(len(batches))
        return _Window(pieces, [batches[index] for index in shuffled], skipped, documents, after)

    def _from(self, start: Taken) -> Iterator[Read[RowsT]]:
        if self._held is not None:
            held, self._held = self._held, None
            yield held
            start = held.after
        yield from self._reader.read(self._number, start)


def _check(skipped: Sequence[Skipped]) -> None:
    if len(skipped) >= MAX_SKIPPED:
        last = skipped[-1]
        raise ValueError(
            f"{len(skipped)} documents of one window cannot be used; the last, {last.shard}: {last.detail}"
        )
