"""Document: the one currency of the house, text and pictures in reading order.

A caption pair, a web page, a chat, a few-shot prompt and an evaluation item are all a Document. Shards, prompts, the
HTTP API and the page turn into Documents at their door; nothing below the door knows where they came from.
Knows the names of special tokens and nothing of ids, tensors or models; a picture is opened late, by whoever needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

from text.specials import END_IMAGE, IMAGE, TAG

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
                span = f"phrase span ({phrase.start}, {phrase.end})"
                raise ValueError(f"{span} overlaps another or leaves the text of {len(self.text)} characters")
            end = phrase.end


@dataclass(frozen=True)
class Image:
    """A picture: encoded bytes, a path or an open PIL image.

    Attributes:
        content_hash: BLAKE3 over its bytes where known, by whoever computed it: never what a stranger claims.
        meta: what a data set says of it (alternative words, width, address ...).
    """

    source: bytes | str | PathLike[str] | Picture
    content_hash: str | None = None
    meta: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Control:
    """A special token put there on purpose, by its printed name: `<grounding>`, `</s>`, `<phrase>`."""

    name: str


Segment: TypeAlias = Text | Image | Control
Prompt: TypeAlias = (
    "str | bytes | PathLike[str] | Document | Segment | Picture | "
    "Sequence[str | bytes | PathLike[str] | Segment | Picture]"
)
"""What a Python caller may write for a Document: words (`str`), a picture (PIL, encoded bytes, a `Path`), or a list of
both. A plain string may contain tags; `Text` is literal."""


@dataclass(frozen=True)
class Document:
    """Segments in reading order, and what is known about them (`meta`: source, licence, id ...)."""

    segments: tuple[Segment, ...]
    meta: Mapping[str, object] = field(default_factory=dict)

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures, in reading order."""
        return tuple(segment for segment in self.segments if isinstance(segment, Image))


def document_of(prompt: Prompt) -> Document:
    """A Document from whatever a Python caller wrote for one.

    Tags in a plain string (`"<grounding>An image of"`) become `Control` segments, and white space left of a tag is
    dropped. That is for the caller's own strings: put other people's words into `Text`, where nothing is a tag.
    Strings that stand side by side in a list stay apart, each the beginning of a word.
    Raises: ValueError for `<image>` in a string; TypeError for what is no prompt.
    """
    if isinstance(prompt, Document):
        return prompt
    if isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes)):
        return Document(tuple(segment for part in prompt for segment in _segments_of(part)))
    return Document(tuple(_segments_of(prompt)))


def _segments_of(part: object) -> Iterator[Segment]:
    from PIL.Image import Image as Picture  # only here: reading shards and serving need no pictures open

    if isinstance(part, (Text, Image, Control)):
        yield part
    elif isinstance(part, str):
        yield from _tagged(part)
    elif isinstance(part, (bytes, PathLike, Picture)):
        yield Image(part)
    else:
        raise TypeError(
            f"a prompt is text, a picture (PIL image, bytes or Path), a Document or a list of these, "
            f"not {type(part).__name__}"
        )


def _tagged(text: str) -> Iterator[Segment]:
    start = 0
    for tag in TAG.finditer(text):
        if tag[0] in (IMAGE, END_IMAGE):
            raise ValueError(
                f"a prompt cannot hold the tag {tag[0]}: put the picture itself there, [picture, 'words'], "
                "or Text(...) around words that only look like it"
            )
        if words := text[start : tag.start()].rstrip():
            yield Text(words)
        yield Control(tag[0])
        start = tag.end()
    if start < len(text):
        yield Text(text[start:])
