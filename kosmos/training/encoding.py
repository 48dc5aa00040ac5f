"""What training hands to the loader: documents to rows by the processor that evaluation and serving use too.

Pictures alone differ: training may decode them at a fraction of their size, within a few levels of the exact way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from data_pipelines.loader.encoder import PLACE
from kosmos.packed import Packed
from kosmos.pieces import cut, pieces
from kosmos.processor import Encoded, Pixels, Processor
from text.document import Document, Image
from vision.fast_decode import decode_square

__all__ = ["DocumentEncoder"]


class DocumentEncoder:
    """The loader's encoder for any Kosmos; pickles with its tokenizer, so that worker processes have it."""

    def __init__(self, processor: Processor, *, decoding: Literal["fast", "exact"] = "fast") -> None:
        """
        Args:
            decoding: `exact` gives the pixels of evaluation, bit for bit; `fast` nearly those, in half the time.
        """
        self.processor, self.decoding = processor, decoding

    def encode(self, document: Document) -> Encoded:
        """Rows of a training document, pictures closed. Raises: ValueError for tokens the model does not have."""
        return self.processor.encode_whole(document)

    def split(self, rows: Encoded, length: int) -> Sequence[Encoded]:
        """Pieces of at most `length` rows."""
        return pieces(rows, length)

    def cut(self, rows: Encoded, room: int) -> tuple[Encoded, Encoded] | None:
        """A head that fills `room` rows, nearly, and the rest."""
        return cut(rows, room)

    def open_pictures(self, rows: Encoded, pictures: Callable[[], Sequence[Image]]) -> Encoded:
        """Decode and resize. Raises: ValueError for a picture that cannot be read."""
        if not rows.images:
            return rows
        found = pictures()
        opened = replace(rows, images=tuple(found[_place(image)] for image in rows.images))
        if self.decoding == "exact":
            return self.processor.open_pictures(opened)
        return replace(opened, images=tuple(self._pixels(image) for image in opened.images))

    def collate(self, batch: Sequence[Encoded]) -> Packed:
        """End to end, with pixels and the weights of losses."""
        return self.processor.collate(batch)

    def _pixels(self, image: Pixels | Image) -> Pixels:
        if isinstance(image, Image) and isinstance(image.source, bytes):
            tower = self.processor.config.tower
            square = decode_square(image.source, tower.image_size, tower.resize)
            return np.ascontiguousarray(square.transpose(2, 0, 1))
        (opened,) = self.processor.open_pictures(Encoded(ids=(), loss_weights=(), images=(image,))).images
        assert isinstance(opened, np.ndarray)
        return opened


def _place(image: Pixels | Image) -> int:
    """Which of its document's pictures a closed one is."""
    assert isinstance(image, Image)
    return int(str(image.meta[PLACE]))
