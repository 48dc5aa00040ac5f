"""A Document on disk: `KEY.json` and its pictures `KEY.0.jpg`, `KEY.1.png` ... beside it, members of a key adjacent.

    {"segments": [{"text": "A dog"}, {"image": "KEY.0.jpg", "blake3": "...", "alt": "..."}], "meta": {"source": "web"}}

A text segment may have `"loss": false` and `"phrases": [{"start", "end", "boxes": [[x0, y0, x1, y1]]}]`; a special
token put there on purpose is `{"control": "<grounding>"}`. What else stands beside `image` is kept with the picture.
The pair of img2dataset (`KEY.jpg`, `KEY.txt`, perhaps `KEY.json`) is read as picture, then words.
`document.schema.json` says the same for machines. Knows nothing of tars.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TypeAlias

from blake3 import blake3

from data_pipelines.errors import DocumentError
from data_pipelines.naming import MAX_KEY_BYTES, is_portable
from text.document import Box, Control, Document, Image, Phrase, Segment, Text
from text.specials import END, END_IMAGE, IMAGE, TAG

__all__ = ["PICTURE_PARTS", "Parts", "document_of_parts", "parts_of_document"]

Parts: TypeAlias = Mapping[str, bytes]
"""Contents of a sample's members by part name: what follows the key and its dot (`json`, `0.jpg`), in lower case."""

MAX_JSON_BYTES = 16 * 2**20
PICTURE_PARTS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


def parts_of_document(key: str, document: Document) -> dict[str, bytes]:
    """The members of a document, `json` first.

    Raises: DocumentError for a key that other readers would take apart, and for a picture that cannot be read.
    """
    if not is_portable(key):
        raise DocumentError(key, "key is not portable", f"letters, digits, _ - / and at most {MAX_KEY_BYTES} bytes")
    segments: list[dict[str, object]] = []
    pictures: dict[str, bytes] = {}
    for segment in document.segments:
        if isinstance(segment, Image):
            data = _bytes(key, segment)
            part = f"{len(pictures)}.{_ending(key, data)}"
            pictures[part] = data
            own = {"image": f"{key}.{part}", "blake3": blake3(data).hexdigest()}
            segments.append({**segment.meta, **own})
        else:
            segments.append(_record(segment))
    record = {"segments": segments, "meta": dict(document.meta)}
    try:
        words = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:  # half a surrogate pair, a value JSON has no form for
        raise DocumentError(key, "no form in JSON", str(error)) from None
    return {"json": words, **pictures}


def document_of_parts(key: str, parts: Parts) -> Document:
    """The document a sample holds; pictures stay the encoded bytes they are.

    Raises: DocumentError, whose reason is one of a few fixed words.
    """
    record = _json(key, parts["json"]) if "json" in parts else {}
    if "segments" in record:
        return _document(key, record, parts)
    picture = next((part for part in PICTURE_PARTS if part in parts), None)
    if picture is None and "txt" not in parts:
        raise DocumentError(key, "no segments", "neither `segments` in its JSON nor a pair of picture and words")
    words = _text(key, parts["txt"]) if "txt" in parts else record.get("caption")
    segments: list[Segment] = [Image(parts[picture])] if picture else []
    if isinstance(words, str) and words:
        segments.append(Text(words))
    return Document(tuple(segments), record)


def _bytes(key: str, image: Image) -> bytes:
    source = image.source
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as file:
                return file.read()
        except OSError as error:
            raise DocumentError(key, "picture not found", str(error)) from None
    encoded = BytesIO()
    source.save(encoded, "PNG")
    return encoded.getvalue()


def _ending(key: str, data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, ending in _MAGIC:
        if data.startswith(magic):
            return ending
    raise DocumentError(key, "picture of an unknown format", f"begins with {data[:8]!r}")


def _record(segment: Text | Control) -> dict[str, object]:
    if isinstance(segment, Control):
        return {"control": segment.name}
    record: dict[str, object] = {"text": segment.text}
    if not segment.loss:
        record["loss"] = False
    if segment.phrases:
        record["phrases"] = [
            {"start": phrase.start, "end": phrase.end, "boxes": [list(box) for box in phrase.boxes]}
            for phrase in segment.phrases
        ]
    return record


def _text(key: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(key, "text is not UTF-8", str(error)) from None


def _json(key: str, data: bytes) -> dict[str, object]:
    if len(data) > MAX_JSON_BYTES:
        raise DocumentError(key, "JSON too large", f"{len(data)} bytes, more than {MAX_JSON_BYTES}")
    try:
        record = json.loads(_text(key, data))
        if _SURROGATE.search(data):
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half of a pair written as an escape: JSON, but no text
        raise DocumentError(key, "text is not UTF-8", str(error)) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(key, "broken JSON", str(error)) from None
    if not isinstance(record, dict):
        raise DocumentError(key, "broken JSON", f"an object is wanted, not {type(record).__name__}")
    return record


def _document(key: str, record: Mapping[str, object], parts: Parts) -> Document:
    segments, meta = record["segments"], record.get("meta") or {}
    if not isinstance(segments, list) or not isinstance(meta, dict):
        raise DocumentError(key, "malformed segments", "`segments` is a list and `meta` an object")
    return Document(tuple(_segment(key, entry, parts) for entry in segments), meta)


def _segment(key: str, entry: object, parts: Parts) -> Segment:
    if not isinstance(entry, dict):
        raise DocumentError(key, "malformed segments", f"a segment is an object, not {type(entry).__name__}")
    if isinstance(entry.get("image"), str):  # first: a data set may say `text` of a picture
        name = entry["image"]
        part = name.removeprefix(f"{key}.").lower()
        if part not in parts:
            raise DocumentError(key, "missing image", name)
        # The stated hash stays a claim: `lint` holds it against the bytes, no cache may trust it.
        return Image(parts[part], meta={field: value for field, value in entry.items() if field != "image"})
    if isinstance(entry.get("text"), str):
        return _grounded_text(key, entry["text"], bool(entry.get("loss", True)), entry.get("phrases") or [])
    if isinstance(entry.get("control"), str) and _is_control(entry["control"]):
        return Control(entry["control"])
    raise DocumentError(key, "malformed segments", f"a segment has text, image or control, not {sorted(entry)[:5]}")


def _is_control(name: str) -> bool:
    return name == END or (name not in (IMAGE, END_IMAGE) and TAG.fullmatch(name) is not None)


def _grounded_text(key: str, text: str, loss: bool, entries: object) -> Text:
    try:
        phrases = tuple(
            Phrase(start=entry["start"], end=entry["end"], boxes=tuple(_box(box) for box in entry["boxes"]))
            for entry in entries  # type: ignore[attr-defined]
        )
        return Text(text, loss, phrases)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise DocumentError(key, "malformed phrases", str(error)) from None


def _box(corners: Sequence[object]) -> Box:
    x0, y0, x1, y1 = corners
    if not all(isinstance(place, (int, float)) and math.isfinite(place) for place in (x0, y0, x1, y1)):
        raise ValueError(f"a box is four numbers, not {corners}"[:200])
    return x0, y0, x1, y1  # type: ignore[return-value]
