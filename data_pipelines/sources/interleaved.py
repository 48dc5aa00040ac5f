"""Pages with pictures in reading order: `interleaved/docs.jsonl`, pictures in `images.tar`. Knows no model."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Page", "pages"]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One document: words (str) and pictures (the encoded bytes) in reading order."""

    key: str
    parts: tuple[str | bytes, ...]


def pages(data: Path, split: str) -> list[Page]:
    """The documents of `interleaved/` that belong to `split`, pictures put in their places."""
    with tarfile.open(data / "interleaved" / "images.tar") as archive:
        pictures = {m.name: stream.read() for m in archive if (stream := archive.extractfile(m)) is not None}
    found = []
    for line in (data / "interleaved" / "docs.jsonl").read_text("utf-8").splitlines():
        page = json.loads(line)
        if page["split"] == split:
            parts = tuple(part["text"] if "text" in part else pictures[part["image"]] for part in page["seq"])
            found.append(Page(key=page["id"], parts=parts))
    return found
