"""COCO's caption file: `images` and `annotations`, pictures in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.sources.pictures import checked
from data_pipelines.targets.captions import captions_of
from data_pipelines.targets.files import put_picture, to_json
from data_pipelines.targets.target import Place, WriteDocument, lost, the_pair
from data_pipelines.whole_file import whole_file
from text.document import Document

__all__ = ["open_coco"]

PER_SHARD = 10_000_000  # numbers kept for each shard, so that those of several files never meet


@contextmanager
def open_coco(place: Place) -> Iterator[WriteDocument]:
    """`NAME.json`. Holds documents of one picture and words after it, with the other captions of their meta."""
    images: list[object] = []
    annotations: list[object] = []
    with whole_file(place.folder / f"{place.name}.json") as file:

        def write(key: str, document: Document) -> Sequence[str]:
            picture, words = the_pair(key, document)
            width, height = checked(key, picture.data)
            number = place.number * PER_SHARD + len(images) + 1
            name = put_picture(place, key, 0, picture)
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for caption in captions_of(document, words):
                own = place.number * PER_SHARD + len(annotations) + 1
                annotations.append({"id": own, "image_id": number, "caption": caption})
            return [*lost(document), *(["lost: meta"] if set(document.meta) - {"captions"} else [])]

        yield write
        file.write(to_json({"info": {}, "licenses": [], "images": images, "annotations": annotations}).encode())
