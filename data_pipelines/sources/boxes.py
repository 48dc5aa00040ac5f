"""Places of things, as COCO's `instances` name them by category and RefCOCO's by an expression: pictures, `bbox`es.

A phrase is followed by all its places. With `tokens_positive` (MDETR's files, of Flickr30k Entities too) phrases are
spans of the picture's `caption`. A `bbox` is `[x, y, width, height]` in pixels.
Source: cocodataset.org, format of annotations; ashkamath/mdetr. Kosmos-2 (arXiv 2306.14824, table 9) for the form.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeGuard

from data_pipelines.errors import DocumentError
from data_pipelines.naming import clean_key
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures, checked
from data_pipelines.sources.record_files import pictures_of
from data_pipelines.sources.records import kept, string_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from data_pipelines.sources.whole_files import load_json, open_whole
from text.document import Box, Phrase
from text.specials import GROUNDING

__all__ = ["Boxes", "has_boxes"]

NAME, PLACES, BOX, SPANS, CAPTION = "file_name", "places", "bbox", "tokens_positive", "caption"
EXPRESSIONS = ("expression", "sentence", "caption", "phrase")
MOST = 1e9  # of a pixel's number


class Boxes:
    """A picture, `<grounding>`, and each category or expression with its places; or one of them a document."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return not first.parts and has_boxes(first.record)

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        rows = open_whole(first.having("json"), _joined)
        return Converted(rows, partial(_entries, options=options, pictures=pictures_of(first, options)))


class _Place(NamedTuple):
    """An annotation with words for it, and its box."""

    annotation: Mapping[str, object]
    box: Box


class _Said(NamedTuple):
    """Words, and which of them stand for places."""

    words: str
    phrases: tuple[Phrase, ...]


def has_boxes(record: Mapping[str, object]) -> bool:
    """Whether a COCO file holds places, not captions."""
    images, annotations = record.get("images"), record.get("annotations")
    return isinstance(images, list) and isinstance(annotations, list) and any(BOX in _object(a) for a in annotations)


def _joined(path: Path) -> Sequence[object]:
    """One record a picture, with all its places.

    Raises: ValueError for a file of another form.
    """
    parsed = _object(load_json(path))
    if not has_boxes(parsed):
        raise ValueError(f"{path} has no lists `images` and `annotations` with a `bbox`; give a file of places")
    categories = parsed.get("categories")
    names = {
        str(_object(one).get("id")): _object(one).get("name")
        for one in (categories if isinstance(categories, list) else ())
    }
    places: dict[str, list[object]] = defaultdict(list)
    annotations, images = parsed["annotations"], parsed["images"]
    assert isinstance(annotations, list)
    assert isinstance(images, list)
    for annotation in map(_object, annotations):
        own = next((annotation[name] for name in EXPRESSIONS if annotation.get(name)), None)
        words = own or names.get(str(annotation.get("category_id")))
        places[str(annotation.get("image_id"))].append({**annotation, "words": words})
    return [{**_object(image), PLACES: places[str(_object(image).get("id"))]} for image in images]


def _entries(row: Row, options: Options, pictures: Pictures) -> Iterator[Entry]:
    data = pictures.find(row.key, string_of(row.key, row.record, NAME))
    size, places, notes = _size(row, data), list[_Place](), list[str]()
    found = row.record[PLACES]
    assert isinstance(found, list)
    for annotation in found:
        box = _box(row.key, annotation.get(BOX), size)
        if annotation.get("iscrowd"):
            notes.append("left out: crowd")  # many things in one box, of which none is meant
        elif box is None:
            notes.append("left out: box without area")
        else:
            places.append(_Place(annotation, box))
    said = _said(row, places)
    if not said:
        raise DocumentError(row.key, "no words", "no place in it has a name")
    groups = [[one] for one in said] if options.each == "caption" else [said]
    for number, group in enumerate(groups):
        draft = Draft(clean_key(f"{row.key}-{number}") if options.each == "caption" else row.key)
        draft.picture(data)
        draft.control(GROUNDING)
        for one in group:
            draft.words(one.words, phrases=one.phrases)
        for note in notes if number == 0 else ():
            draft.note(note)
        yield draft.entry(kept(row.record))


def _said(row: Row, places: Sequence[_Place]) -> list[_Said]:
    """What is said of a picture: its caption, or each name once, in the order of their first place."""
    caption = row.record.get(CAPTION)
    if isinstance(caption, str) and any(place.annotation.get(SPANS) for place in places):
        spans: dict[tuple[int, int], list[Box]] = defaultdict(list)
        for place in places:
            for span in _spans(row.key, place.annotation.get(SPANS), caption):
                spans[span].append(place.box)
        return [_Said(caption, _apart(spans))]
    names: dict[str, list[Box]] = defaultdict(list)
    for place in places:
        if isinstance(words := place.annotation["words"], str) and words.strip():
            names[words.strip()].append(place.box)
    return [_Said(words, (Phrase(start=0, end=len(words), boxes=tuple(boxes)),)) for words, boxes in names.items()]


def _apart(boxes: Mapping[tuple[int, int], Sequence[Box]]) -> tuple[Phrase, ...]:
    """Phrases in order; of those that overlap the first and longest stays."""
    phrases: list[Phrase] = []
    for (start, end), found in sorted(boxes.items(), key=lambda item: (item[0][0], -item[0][1])):
        if not phrases or start >= phrases[-1].end:
            phrases.append(Phrase(start=start, end=end, boxes=tuple(found)))
    return tuple(phrases)


def _spans(key: str, value: object, caption: str) -> Iterator[tuple[int, int]]:
    for span in value if isinstance(value, list) else ():
        if not isinstance(span, list) or len(span) != 2 or not all(type(one) is int for one in span):
            raise DocumentError(key, "malformed phrases", f"a span is two whole numbers, not {str(span)[:80]}")
        if not 0 <= span[0] < span[1] <= len(caption):
            raise DocumentError(key, "malformed phrases", f"span {span} in {len(caption)} characters")
        yield span[0], span[1]


def _box(key: str, value: object, size: tuple[float, float]) -> Box | None:
    """Corners as fractions of the picture; what sticks out of it is cut off. None if nothing is left."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise DocumentError(key, "malformed phrases", f"a bbox is four numbers, not {str(value)[:80]}")
    x, y, width, height = value
    corners = (x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1])
    x0, y0, x1, y1 = (min(max(corner, 0.0), 1.0) for corner in corners)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _size(row: Row, data: bytes) -> tuple[float, float]:
    """In the pixels that boxes count: as the record says, else of the picture."""
    width, height = row.record.get("width"), row.record.get("height")
    if _is_number(width) and _is_number(height) and min(width, height) >= 1:
        return width, height
    return checked(row.key, data)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < MOST


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
