"""Which foreign formats there are: one line a format. A new one is a file with a `Source` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.source import Source

__all__ = ["SOURCES", "find_format", "load_source"]

SOURCES: Mapping[str, str] = {
    "captioned": "data_pipelines.sources.captions:Captioned",
    "webdataset": "data_pipelines.sources.webdataset:WebDataset",
    "grounded": "data_pipelines.sources.grounded:Grounded",
    "boxes": "data_pipelines.sources.boxes:Boxes",
    "entities": "data_pipelines.sources.entities:Entities",
    "picture-records": "data_pipelines.sources.picture_records:PictureRecords",
    "vqa": "data_pipelines.sources.vqa:Vqa",
    "instructions": "data_pipelines.sources.instructions:Instructions",
    "mmc4": "data_pipelines.sources.mmc4:Mmc4",
    "obelics": "data_pipelines.sources.obelics:Obelics",
    "llava": "data_pipelines.sources.llava:Llava",
    "documents": "data_pipelines.sources.documents:Documents",
    "coco": "data_pipelines.sources.coco:Coco",
    "flickr": "data_pipelines.sources.flickr:Flickr",
    "pages": "data_pipelines.sources.pages:Pages",
    "parallel-records": "data_pipelines.sources.parallel:ParallelRecords",
    "parallel-lines": "data_pipelines.sources.parallel:ParallelLines",
    "tmx": "data_pipelines.sources.tmx:Tmx",
    "text-records": "data_pipelines.sources.text_records:TextRecords",
    "text": "data_pipelines.sources.text_files:TextFiles",
}


def load_source(name: str) -> Source:
    """The format of a name. Raises: ValueError for an unknown one."""
    if name not in SOURCES:
        raise ValueError(f"unknown format {name!r}; known formats: {', '.join(SOURCES)}")
    module, _, kind = SOURCES[name].partition(":")
    return cast(Source, getattr(import_module(module), kind)())


def find_format(first: Glimpse) -> str:
    """The one format a source looks like.

    Raises: ValueError if it is none, or several.
    """
    found = [name for name in SOURCES if load_source(name).matches(first)]
    if len(found) == 1:
        return found[0]
    seen = f"the first record has {sorted(first.record)[:12]}" if first.record else f"files as {first.files[0].name}"
    where = ", ".join(map(str, first.paths[:3]))
    verdict = f"could be {' or '.join(found)}" if found else "looks like no format known here"
    raise ValueError(f"{where} {verdict} ({seen}); say which by --format: {', '.join(SOURCES)}")
