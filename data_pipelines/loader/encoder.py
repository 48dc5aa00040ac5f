"""Encoder: what the model's side hands to the loader, which itself knows no model, no tokenizer and no tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from text.document import Document, Image

__all__ = ["PLACE", "Encoder", "Rows"]

PLACE = "__place__"
"""In the meta of a picture that is still closed: which of its document's pictures it is."""


class Rows(Protocol):
    """A document, or a piece of one, as rows of a model."""

    @property
    def length(self) -> int:
        """Rows, those of pictures included."""


RowsT = TypeVar("RowsT", bound=Rows)
BatchT = TypeVar("BatchT", covariant=True)


class Encoder(Protocol[RowsT, BatchT]):
    """Documents to batches; must pickle, as worker processes get a copy.

    All five are pure. What they draw at random comes from `document.meta["__seed__"]`, a number that differs from visit
    to visit and not from run to run; `__key__` and `__epoch__` (visits of this document before) stand beside it.
    """

    def encode(self, document: Document) -> RowsT:
        """Rows of a document; pictures stay closed. Raises: ValueError for a document that cannot be used."""

    def split(self, rows: RowsT, length: int) -> Sequence[RowsT]:
        """Pieces of at most `length` rows that together are the document; itself alone if it is short enough."""

    def cut(self, rows: RowsT, room: int) -> tuple[RowsT, RowsT] | None:
        """A head of at most `room` rows and the rest, to fill a batch; None for what is better left whole."""

    def open_pictures(self, rows: RowsT, pictures: Callable[[], Sequence[Image]]) -> RowsT:
        """The same with pictures decoded.

        Args:
            pictures: reads those of the whole document; the rows' own are at their `PLACE`.
        Raises: ValueError for a picture that cannot be read.
        """

    def collate(self, batch: Sequence[RowsT]) -> BatchT:
        """Rows laid end to end, as the model eats them."""
