"""Text without pictures: public-domain books, and the captions of Flickr30k photographs. Knows nothing of models."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.sources.captioned import Captioned
from data_pipelines.sources.written import written

__all__ = ["books", "caption_texts"]


def _zipped_lines(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def books(data: Path, split: str) -> list[str]:
    """Chunks of public-domain books, paragraphs parted by a blank line."""
    return [row["text"] for row in _zipped_lines(data / "text" / f"books-{split}.jsonl.gz")]


def _bare(caption: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", caption.lower()))


def caption_texts(data: Path, *, kept_out: Iterable[Captioned]) -> list[str]:
    """English captions of Flickr30k pictures without the pictures (`multi30k`, train), as people write them.

    Flickr30k holds pictures of Flickr8k, so a row is left out if its picture is one of `kept_out` (the validation
    pictures, by Flickr's own number) or its words equal one of their captions.
    """
    pictures: set[str] = set()
    words: set[str] = set()
    for item in kept_out:
        pictures.add(item.origin.partition("_")[0])
        words.update(_bare(caption) for caption in item.captions)
    rows = _zipped_lines(data / "multi30k" / "train.jsonl.gz")
    return [
        written(row["en"])
        for row in rows
        if row["image"].partition(".")[0] not in pictures and _bare(row["en"]) not in words
    ]
