"""What training hands to the loader: documents to rows by the processor that evaluation and serving use too."""

from __future__ import annotations

from collections.abc import Sequence

from kosmos.packed import Packed
from kosmos.pieces import cut, pieces
from kosmos.processor import Encoded, Processor
from text.document import Document

__all__ = ["DocumentEncoder"]


class DocumentEncoder:
    """The loader's encoder for any Kosmos; pickles with its tokenizer, so that worker processes have it."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def encode(self, document: Document) -> Encoded:
        """Rows of a training document, pictures closed. Raises: ValueError for tokens the model does not have."""
        return self.processor.encode_whole(document)

    def split(self, rows: Encoded, length: int) -> Sequence[Encoded]:
        """Pieces of at most `length` rows."""
        return pieces(rows, length)

    def cut(self, rows: Encoded, room: int) -> tuple[Encoded, Encoded] | None:
        """A head that fills `room` rows and the rest, of words alone."""
        return cut(rows, room)

    def open_pictures(self, rows: Encoded) -> Encoded:
        """Decode and resize. Raises: ValueError for a picture that cannot be read."""
        return self.processor.open_pictures(rows)

    def collate(self, batch: Sequence[Encoded]) -> Packed:
        """End to end, with pixels and the weights of losses."""
        return self.processor.collate(batch)
