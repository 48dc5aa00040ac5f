"""A folder of Markdown pages, each with its pictures in a folder beside it; words that look like markup are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from data_pipelines.errors import DocumentError
from data_pipelines.naming import is_portable
from data_pipelines.targets.files import put_file
from data_pipelines.targets.target import Place, WriteDocument, lost, pictures_of
from text.document import Control, Document, Image, Text

__all__ = ["open_pages", "to_markdown"]

PARAGRAPH = "\n\n"
KNOWN = {"alt", "blake3"}  # of a picture: the one is written, the other is known of its bytes
_INLINE = re.compile(r"[\\`*_\[\]<]|&(?=#?\w+;)")
_LINE_START = re.compile(r"[#+\-=~:>|]|[ \t]+")  # headings, lists, rules, fences, quotes, tables; code
_NUMBERED = re.compile(r"(\d{1,9})([.)])")
_PARTED = re.compile(r"\n\s*\n")
_BY_NUMBER = re.compile("[\r\ufeff]")  # what reading a file would change


@contextmanager
def open_pages(place: Place) -> Iterator[WriteDocument]:
    """`NAME/KEY.md`, pictures under `NAME/KEY.images/`. Holds documents that have words or pictures."""

    def write(key: str, document: Document) -> Sequence[str]:
        segments = _held(key, document)
        pictures = pictures_of(key, document)
        names = [f"{key}.images/{number}.{picture.ending}" for number, picture in enumerate(pictures)]
        for name, picture in zip(names, pictures, strict=True):
            put_file(place.folder, f"{place.name}/{name}", picture.data)
        put_file(place.folder, f"{place.name}/{key}.md", _page(segments, names).encode())
        return [*lost(document), *_changed(document, segments)]

    yield write


def to_markdown(text: str) -> str:
    """Markdown that reads as these words, line by line: blank lines part paragraphs, other breaks stay."""
    return PARAGRAPH.join("\\\n".join(map(_line, one.split("\n"))) for one in _paragraphs(text))


def _held(key: str, document: Document) -> list[Text | Image]:
    """What a page shows. Raises: DocumentError."""
    if not is_portable(key):
        raise DocumentError(key, "key is not portable")
    shown = (one for one in document.segments if not isinstance(one, Control))
    segments = [one for one in shown if isinstance(one, Image) or one.text.strip()]
    if not segments:
        raise DocumentError(key, "cannot hold: neither words nor pictures")
    if any(isinstance(one, Text) and "\0" in one.text for one in segments):
        raise DocumentError(key, "cannot hold: a NUL among the words")
    return segments


def _page(segments: Sequence[Text | Image], names: Sequence[str]) -> str:
    left = iter(names)
    blocks = [_picture(one, next(left)) if isinstance(one, Image) else to_markdown(one.text) for one in segments]
    return PARAGRAPH.join(blocks) + "\n"


def _picture(image: Image, name: str) -> str:
    """A page names its pictures from where it stands, whatever folders its key has."""
    folder, picture = name.split("/")[-2:]
    alt = image.meta.get("alt")
    words = " ".join(alt.split()) if isinstance(alt, str) else ""
    return f"![{_line(words)}]({folder}/{picture})"


def _paragraphs(text: str) -> list[str]:
    return [one.strip() for one in _PARTED.split(text) if one.strip()]


def _line(line: str) -> str:
    escaped = _INLINE.sub(r"\\\g<0>", line)
    escaped = _NUMBERED.sub(r"\1\\\2", escaped, count=1) if _NUMBERED.match(escaped) else escaped
    if start := _LINE_START.match(escaped):
        blank = start[0].isspace()
        escaped = (_by_number(start[0]) if blank else f"\\{start[0]}") + escaped[start.end() :]
    return _BY_NUMBER.sub(lambda found: _by_number(found[0]), escaped)


def _by_number(characters: str) -> str:
    return "".join(f"&#{ord(one)};" for one in characters)


def _changed(document: Document, segments: Sequence[Text | Image]) -> list[str]:
    texts = [segment.text for segment in segments if isinstance(segment, Text)]
    kinds = [type(segment) for segment in segments]
    found = {
        "lost: meta": bool(document.meta),
        "lost: what is known of pictures": any(set(image.meta) - KNOWN for image in document.images),
        "changed: white space around paragraphs": any(PARAGRAPH.join(_paragraphs(text)) != text for text in texts),
        "changed: texts side by side are one now": (Text, Text) in pairwise(kinds),
    }
    return [kind for kind, is_so in found.items() if is_so]
