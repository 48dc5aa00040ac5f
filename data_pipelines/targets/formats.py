"""Formats documents can be written in: one line a format. A new one is a function `OpenTarget` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from data_pipelines.targets.target import OpenTarget

__all__ = ["TARGETS", "load_target"]

TARGETS: Mapping[str, str] = {
    "webdataset": "data_pipelines.targets.webdataset:open_webdataset",
    "llava": "data_pipelines.targets.llava:open_llava",
    "mmc4": "data_pipelines.targets.mmc4:open_mmc4",
    "obelics": "data_pipelines.targets.obelics:open_obelics",
    "documents": "data_pipelines.targets.documents:open_documents",
    "text": "data_pipelines.targets.plain_text:open_plain_text",
    "parquet": "data_pipelines.targets.parquet:open_parquet",
    "coco": "data_pipelines.targets.coco:open_coco",
    "grounded": "data_pipelines.targets.grounded:open_grounded",
    "flickr": "data_pipelines.targets.flickr:open_flickr",
    "parallel-lines": "data_pipelines.targets.parallel_lines:open_parallel_lines",
    "tmx": "data_pipelines.targets.tmx:open_tmx",
    "pages": "data_pipelines.targets.pages:open_pages",
}


def load_target(name: str) -> OpenTarget:
    """The format of a name. Raises: ValueError for an unknown one."""
    if name not in TARGETS:
        raise ValueError(f"unknown format {name!r}; known formats: {', '.join(TARGETS)}")
    module, _, function = TARGETS[name].partition(":")
    return cast(OpenTarget, getattr(import_module(module), function))
