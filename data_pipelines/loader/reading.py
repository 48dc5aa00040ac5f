"""Reading: from a lane's position to rows, one document after the other; what cannot be used is passed over and said.

The position is `Taken`, so reading can begin again anywhere and gives the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from data_pipelines.errors import DocumentError, ShardError
from data_pipelines.loader.blend import Blend, Taken
from data_pipelines.loader.documents import Documents
from data_pipelines.loader.encoder import PLACE, Encoder, Rows
from data_pipelines.loader.order import Order
from data_pipelines.shard import Sample
from text.document import Document, Image, Segment

__all__ = ["Origin", "Read", "Reader", "Skipped", "closed"]

RowsT = TypeVar("RowsT", bound=Rows)


class Skipped(NamedTuple):
    """A document that was passed over.

    Attributes:
        reason: one of few words, the same for every document with this fault.   detail: what was seen.
        whole: False where only a piece of it was.
    """

    reason: str
    key: str
    shard: str
    detail: str
    whole: bool = True


class Origin(NamedTuple):
    """Which document: its component's place in the mixture, its number there, its key, and the shard it stands in."""

    component: int
    number: int
    key: str
    shard: str


@dataclass(frozen=True)
class Read(Generic[RowsT]):
    """One document read, or passed over.

    Attributes:
        pieces: its rows, cut to the longest a batch takes; empty if it was passed over.
        after: the position behind it.   origin: which it was.
    """

    pieces: Sequence[RowsT]
    after: Taken
    origin: Origin
    skipped: Skipped | None = None


@dataclass(frozen=True, kw_only=True)
class Reader(Generic[RowsT]):
    """Reads a mixture for any lane.

    Attributes:
        sets, orders: of each component.   blend: which one comes next.
        max_length: rows of the longest piece.
    """

    sets: Sequence[Documents]
    orders: Sequence[Order]
    blend: Blend
    encoder: Encoder[RowsT, object]
    max_length: int
    seed: int

    def read(self, lane: int, taken: Taken) -> Iterator[Read[RowsT]]:
        """Documents from a position on, without end."""
        while True:
            component = self.blend.next(lane, taken)
            epoch, number = self.orders[component].visit(lane, taken.documents[component])
            read = self._read_one(component, epoch, number, taken)
            yield read
            taken = read.after

    def _read_one(self, component: int, epoch: int, number: int, taken: Taken) -> Read[RowsT]:
        documents, sample = self.sets[component], None
        try:
            sample = documents[number]
            rows = self.encoder.encode(self._marked(sample, documents.name, epoch))
            pieces = self.encoder.split(rows, self.max_length)
        except ValueError as error:
            skipped = _skipped(error, sample, documents, number)
            origin = Origin(component, number, skipped.key, skipped.shard)
            return Read((), self.blend.passed_over(taken, component), origin, skipped)
        except Exception as error:  # no bad document but a fault of ours, or a shard that is gone
            error.add_note(f"while reading document {sample.key if sample else number} of {documents.shard_of(number)}")
            raise
        after = taken.plus(component, sum(piece.length for piece in pieces))
        return Read(pieces, after, Origin(component, number, sample.key, sample.shard))

    def pictures(self, origin: Origin) -> Sequence[Image]:
        """The pictures of a document, read again. Raises: ValueError, OSError."""
        return self.sets[origin.component][origin.number].document().images

    def _marked(self, sample: Sample, component: str, epoch: int) -> Document:
        document = sample.document()
        visit = f"{self.seed}/{epoch}/{component}/{sample.key}".encode()
        seed = int.from_bytes(hashlib.blake2b(visit, digest_size=8).digest(), "little")
        meta = {**document.meta, "__key__": sample.key, "__epoch__": epoch, "__seed__": seed}
        return replace(closed(document), meta=meta)


def closed(document: Document) -> Document:
    """The document with its pictures' places instead of their bytes, which would fill the memory of all lanes."""
    segments: list[Segment] = []
    place = 0
    for segment in document.segments:
        if isinstance(segment, Image):
            segments.append(Image(b"", meta={**segment.meta, PLACE: place}))
            place += 1
        else:
            segments.append(segment)
    return replace(document, segments=tuple(segments))


def _skipped(error: ValueError, sample: Sample | None, documents: Documents, number: int) -> Skipped:
    key = sample.key if sample else f"{documents.name}, document {number}"
    shard = sample.shard if sample else documents.shard_of(number)
    if isinstance(error, (DocumentError, ShardError)):
        return Skipped(error.reason, key, shard, str(error))
    return Skipped("cannot be encoded", key, shard, str(error))
