"""Documents of the built-in model's shards as rows: a drawn view, caption and prompt each visit; features for pixels.

The frozen eye's features stand where pixels would, so that a step costs no tower. Everything else is the processor's,
which evaluation and serving use too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np

from kosmos.packed import Packed
from kosmos.pieces import cut, pieces
from kosmos.processor import Encoded, Processor
from kosmos.training.builtin.corpus import captions_of
from kosmos.training.builtin.features import Bytes, restored
from kosmos.training.builtin.stored_features import StoredFeatures
from text.document import Document, Image, Text

__all__ = ["PROMPTS", "Photograph", "PhotographEncoder", "TinyEncoder", "mirrored_words"]

PROMPTS = (
    "A photo of",
    "A photo of",
    "An image of",
    "A picture of",
    "This is",
    "Describe this picture.",
    "Describe this image.",
    "What is in this picture?",
    "What do you see?",
    "Caption:",
)
_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


def mirrored_words(caption: str) -> str:
    """The caption of the mirrored picture: left and right change places."""
    return re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda match: _SIDES[match[0]], caption)


@dataclass(frozen=True)
class TinyEncoder:
    """The loader's encoder.

    Attributes:
        features: of the set's pictures; None for a set without pictures.
        prompted: share of captions that follow one of `PROMPTS`, for which no loss is asked.
    """

    processor: Processor
    features: StoredFeatures | None = None
    prompted: float = 0.0

    def encode(self, document: Document) -> Encoded:
        """Rows; of a photograph with captions one of them, another each epoch, and one view."""
        view = 0
        if "captions" in document.meta:
            draw = np.random.default_rng(_number(document, "__seed__"))
            view = int(draw.integers(self.features.views)) if self.features else 0
            document = self._captioned(document, draw, view)
        rows = self.processor.encode_whole(document)
        key = str(document.meta["__key__"])
        seen = tuple(Image(b"", meta={"key": key, "place": place, "view": view}) for place in range(len(rows.images)))
        return replace(rows, images=seen)

    def split(self, rows: Encoded, length: int) -> Sequence[Encoded]:
        """Pieces of at most `length` rows."""
        return pieces(rows, length)

    def cut(self, rows: Encoded, room: int) -> tuple[Encoded, Encoded] | None:
        """A head that fills `room` rows and the rest, of words alone."""
        return cut(rows, room)

    def open_pictures(self, rows: Encoded, pictures: Callable[[], Sequence[Image]]) -> Encoded:
        """Look up what the eye saw."""
        return replace(rows, images=tuple(self._seen(image) for image in rows.images if isinstance(image, Image)))

    def collate(self, batch: Sequence[Encoded]) -> Packed:
        """End to end, with features [N, 49, 1280]."""
        seen = [image for rows in batch for image in rows.images]
        return self.processor.collate(batch, features=restored(np.stack(seen)) if seen else None)  # type: ignore[arg-type]

    def _captioned(self, document: Document, draw: np.random.Generator, view: int) -> Document:
        captions = captions_of(document)
        turn = _number(document, "__epoch__") + crc32(str(document.meta["__key__"]).encode())
        caption = captions[turn % len(captions)]
        caption = mirrored_words(caption) if view % 2 else caption
        words = [Text(caption)]
        if draw.random() < self.prompted:
            prompt = str(draw.choice(PROMPTS))
            goes_on = prompt[-1] not in ".?:"
            words = [Text(prompt, loss=False), Text(caption[0].lower() + caption[1:] if goes_on else caption)]
        return Document((document.images[0], *words), document.meta)

    def _seen(self, image: Image) -> Bytes:
        if self.features is None:
            raise ValueError("a picture in a set without features; name the set's features")
        return self.features(str(image.meta["key"]), _of(image, "place"), _of(image, "view"))


@dataclass(frozen=True)
class Photograph:
    """A picture to be captioned: a single row until its caption is sampled."""

    key: str
    view: int
    length: int = 1


@dataclass(frozen=True)
class PhotographEncoder:
    """Photographs for the reward stage: key and drawn view, features looked up late; a batch is a list."""

    views: int

    def encode(self, document: Document) -> Photograph:
        """A view of the photograph."""
        draw = np.random.default_rng(_number(document, "__seed__"))
        return Photograph(str(document.meta["__key__"]), int(draw.integers(self.views)))

    def split(self, rows: Photograph, length: int) -> Sequence[Photograph]:
        """Itself."""
        return (rows,)

    def cut(self, rows: Photograph, room: int) -> None:
        """Never."""

    def open_pictures(self, rows: Photograph, pictures: Callable[[], Sequence[Image]]) -> Photograph:
        """Itself."""
        return rows

    def collate(self, batch: Sequence[Photograph]) -> tuple[Photograph, ...]:
        """As they are."""
        return tuple(batch)


def _number(document: Document, name: str) -> int:
    return int(str(document.meta[name]))


def _of(image: Image, name: str) -> int:
    return int(str(image.meta[name]))
