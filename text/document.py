"""Document: the one currency of the house, text and pictures in reading order.

A caption pair, a web page, a chat, a few-shot prompt and an evaluation item are all a Document. Shards, prompts, the
HTTP API and the page turn into Documents at their door; nothing below the door knows where they came from.
Knows nothing of tokens, tensors or models; a picture is opened late, by whoever needs its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["Box", "Control", "Document", "Image", "Phrase", "Prompt", "Segment", "Text", "document_of"]

Box: TypeAlias = tuple[float, float, float, float]
"""Upper-left and lower-right corner `(x0, y0, x1, y1)` as fractions 0..1 of width and height."""


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """Words `text[start:end]` of a segment that stand for the places `boxes` in the nearest picture before them."""

    start: int
    end: int
    boxes: tuple[Box, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"phrase span ({self.start}, {self.end}) is empty or negative; give 0 <= start < end")


@dataclass(frozen=True)
class Text:
    """Literal words. A tag typed inside (`<grounding>`) stays words: special tokens are `Control` segments.

    Attributes:
        loss: whether training asks the model for these words (False for instructions and questions).
        phrases: grounded spans of `text`, in order, not overlapping.
    """

    text: str
    loss: bool = True
    phrases: tuple[Phrase, ...] = ()

    def __post_init__(self) -> None:
        end = 0
        for phrase in self.phrases:
            if phrase.start < end or phrase.end > len(self.text):
                raise ValueError(
                    f"phrase span ({phrase.start}, {phrase.end}) overlaps another or leaves the text of {len(self.text)} characters"
                )
            end = phrase.end


@dataclass(frozen=True)
class Image:
    """A picture: encoded bytes, a path or an open PIL image; `content_hash` is BLAKE3 over its bytes where known."""

    source: bytes | str | PathLike[str] | Picture
    content_hash: str | None = None


@dataclass(frozen=True)
class Control:
    """A special token put there on purpose, by its printed name: `<grounding>`, `</s>`, `<phrase>`."""

    name: str


Segment: TypeAlias = Text | Image | Control
Prompt: TypeAlias = "str | Document | Segment | Picture | Sequence[str | Segment | Picture]"
"""What a Python caller may write for a Document: words, a picture, or a list of both."""


@dataclass(frozen=True)
class Document:
    """Segments in reading order, and what is known about them (`meta`: source, licence, id ...)."""

    segments: tuple[Segment, ...]
    meta: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures, in reading order."""
        return tuple(segment for segment in self.segments if isinstance(segment, Image))
