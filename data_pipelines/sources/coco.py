"""COCO's caption files, and Karpathy's splits of COCO and Flickr: one JSON object, pictures in a folder.

Source: cocodataset.org, format of annotations; karpathy/neuraltalk2 (`sentences` with `raw`, `restval` is train).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from data_pipelines.sources.boxes import has_boxes
from data_pipelines.sources.captions import caption_entries
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import pictures_of
from data_pipelines.sources.records import string_of, strings_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from data_pipelines.sources.whole_files import load_json, open_whole

__all__ = ["Coco"]

NAME, CAPTIONS = "file_name", "captions"


class Coco:
    """`images` with `annotations` that hold a `caption`, or with `sentences` of their own."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        known = first.record
        images = known.get("images")
        karpathy = isinstance(images, list) and bool(images) and "sentences" in _object(images[0])
        captions = "annotations" in known and not has_boxes(known)
        return not first.parts and isinstance(images, list) and (captions or karpathy)

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        rows = open_whole(first.having("json"), _joined)
        return Converted(rows, partial(_entries, options=options, pictures=pictures_of(first, options)))


def _entries(row: Row, options: Options, pictures: Pictures) -> Iterator[Entry]:
    name = string_of(row.key, row.record, NAME)
    captions = strings_of(row.key, row.record, CAPTIONS)
    yield from caption_entries(row, captions, options, picture=name, pictures=pictures)


def _joined(path: Path) -> Sequence[object]:
    """One record a picture: what is known of it, its name, and its captions in order.

    Raises: ValueError for a file of another form.
    """
    parsed = _object(load_json(path))
    images, annotations = parsed.get("images"), parsed.get("annotations", [])
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise ValueError(f"{path} has no lists `images` and `annotations`; give a file of captions")
    captions: dict[str, list[object]] = {}
    for annotation in map(_object, annotations):
        captions.setdefault(str(annotation.get("image_id")), []).append(annotation.get("caption"))
    return [_record(_object(image), captions) for image in images]


def _record(image: Mapping[str, object], captions: Mapping[str, list[object]]) -> Mapping[str, object]:
    sentences = image.get("sentences")
    if not isinstance(sentences, list):
        return {**image, CAPTIONS: captions.get(str(image.get("id")), [])}
    folder, name = image.get("filepath"), image.get("filename")
    path = f"{folder}/{name}" if folder else name
    split = "train" if image.get("split") == "restval" else image.get("split")
    return {**image, "split": split, NAME: path, CAPTIONS: [_object(one).get("raw") for one in sentences]}


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
