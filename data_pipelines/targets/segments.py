"""Segments as plain values of JSON, the pictures under names of the writer's own choice."""

from __future__ import annotations

import json
from collections.abc import Sequence

from data_pipelines.schema import parts_of_document
from text.document import Document

__all__ = ["segment_records"]


def segment_records(key: str, document: Document, names: Sequence[str]) -> list[dict[str, object]]:
    """What `segments` of a shard's JSON says, with `names` for the pictures, in order. Raises: DocumentError."""
    records: list[dict[str, object]] = json.loads(parts_of_document(key, document)["json"])["segments"]
    left = iter(names)
    return [{**record, "image": next(left)} if "image" in record else record for record in records]
