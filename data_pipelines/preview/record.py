"""A document as the page takes it: plain values, long things cut with a word about it, pictures made small.

Everything in it is data for the page, which puts it there as text; nothing becomes markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TypeAlias

from data_pipelines.errors import DocumentError
from data_pipelines.mixing import count_tokens
from data_pipelines.shard import Sample
from text.document import Document, Image, Phrase, Segment, Text
from text.tokenizer import Tokenizer

__all__ = ["PictureAddress", "Record", "data_url", "record_of", "small_jpeg"]

Record: TypeAlias = dict[str, object]
PictureAddress: TypeAlias = Callable[[int, Image], str]
"""Where the page finds picture `n` of a document: a data: URL, or a path of the server. Raises: ValueError."""

MAX_CHARACTERS = 20_000  # of one segment
MAX_SEGMENTS = 1_000
MAX_PICTURES = 64
MAX_BOXES = 100  # of one phrase
MAX_META_CHARACTERS = 20_000
SIDE = 512  # longest side of a picture in the page, in pixels
QUALITY = 82


def record_of(number: int, sample: Sample, tokenizer: Tokenizer, address: PictureAddress) -> Record:
    """What the page shows of a sample; a broken one is shown with its fault."""
    plain: Record = {"number": number, "key": sample.key, "shard": sample.shard.rpartition("/")[2]}
    try:
        document = sample.document()
    except DocumentError as error:
        return {**plain, "segments": [], "meta": {}, "tokens": 0, "pictures": 0, "fault": _cut(str(error))}
    return {
        **plain,
        "segments": _segments(document, address),
        "meta": _meta(document.meta),
        "tokens": count_tokens(document, tokenizer),
        "pictures": len(document.images),
        "source": _word(document.meta.get("source")),
        "dropped": _word(document.meta.get("dropped")),
    }


def small_jpeg(image: Image, side: int = SIDE) -> bytes:
    """The picture with its longest side at most `side` pixels; nothing of its file but pixels goes in.

    Raises: ValueError for a broken picture.
    """
    from PIL import Image as Pillow

    from vision.image import open_image

    picture = Pillow.fromarray(open_image(image.source))
    picture.thumbnail((side, side))
    encoded = BytesIO()
    picture.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def data_url(place: int, image: Image) -> str:
    """A small picture inside the page itself. Raises: ValueError."""
    return "data:image/jpeg;base64," + base64.b64encode(small_jpeg(image)).decode()


def _segments(document: Document, address: PictureAddress) -> list[Record]:
    found: list[Record] = []
    pictures = 0
    for segment in document.segments[:MAX_SEGMENTS]:
        found.append(_segment(segment, pictures, address))
        pictures += isinstance(segment, Image)
    if len(document.segments) > MAX_SEGMENTS:
        found.append({"note": f"{len(document.segments) - MAX_SEGMENTS:,} more segments"})
    return found


def _segment(segment: Segment, place: int, address: PictureAddress) -> Record:
    if isinstance(segment, Text):
        record: Record = {"text": segment.text[:MAX_CHARACTERS]}
        if len(segment.text) > MAX_CHARACTERS:
            record["cut"] = len(segment.text) - MAX_CHARACTERS
        if not segment.loss:
            record["loss"] = False
        if phrases := [_phrase(phrase) for phrase in segment.phrases if phrase.end <= MAX_CHARACTERS]:
            record["phrases"] = phrases
        return record
    if isinstance(segment, Image):
        about = {"alt": _word(segment.meta.get("alt") or segment.meta.get("alt_text"))}
        if place >= MAX_PICTURES:
            return {"image": None, "fault": f"not shown: the document has more than {MAX_PICTURES} pictures", **about}
        try:
            return {"image": address(place, segment), **about}
        except ValueError as error:
            return {"image": None, "fault": _cut(str(error)), **about}
    return {"control": segment.name}


def _phrase(phrase: Phrase) -> Record:
    boxes = [list(box) for box in phrase.boxes[:MAX_BOXES] if all(0 <= edge <= 1 for edge in box)]
    return {"start": phrase.start, "end": phrase.end, "boxes": boxes}


def _meta(meta: Mapping[str, object]) -> object:
    try:
        written = json.dumps(meta, ensure_ascii=False, default=str)
    except RecursionError:
        return "nested too deeply to be shown"
    if len(written) <= MAX_META_CHARACTERS:
        return json.loads(written, parse_constant=str)  # NaN is no JSON: the page could not read any of its documents
    return f"{written[:MAX_META_CHARACTERS]} … {len(written) - MAX_META_CHARACTERS:,} more characters"


def _word(value: object) -> str:
    if value is None:
        return ""
    return _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _cut(words: str) -> str:
    return words if len(words) <= 200 else words[:199] + "…"
