"""The data `tiny` is trained on, read from a folder of tars and JSON lines: captioned photographs, pages with pictures, text.

Knows the files' layout and nothing of tokens, tensors or models. Released captions are spaced as in the Penn Treebank
("A dog runs ."); `written` sets them as people write. Nothing said of a validation picture enters a training text.
"""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Captioned", "Page", "books", "captioned", "caption_texts", "mirrored_words", "pages", "written"]


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """One photograph and what people said of it; `key` is its name in the set, `origin` its name at Flickr."""

    key: str
    origin: str
    picture: bytes
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One document: words (str) and pictures (the encoded bytes) in reading order."""

    key: str
    parts: tuple[str | bytes, ...]


_CONTRACTION = re.compile(r" (n't|'s|'re|'ve|'ll|'d|'m)\b")
_BEFORE = re.compile(r"\s+([.,;:!?%)\]}]|'')")
_AFTER = re.compile(r"([(\[{$]|``)\s+")
_QUOTED = re.compile(r'" ([^"]*?) "')


def written(caption: str) -> str:
    """A caption as people write it: first letter large, no blank before punctuation, a full stop at the end."""
    text = " ".join(caption.split())
    text = _QUOTED.sub(r'"\1"', text)
    text = _CONTRACTION.sub(r"\1", text)
    text = _AFTER.sub(r"\1", _BEFORE.sub(r"\1", text))
    text = text.replace("``", '"').replace("''", '"').replace(" - ", "-").strip()
    if not text:
        return text
    text = text[0].upper() + text[1:]
    return text if text[-1] in '.!?"' else text.rstrip(",;:-") + "."


_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


def mirrored_words(caption: str) -> str:
    """The caption of the mirrored picture: left and right change places."""
    return re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda match: _SIDES[match[0]], caption)


def captioned(shard: Path) -> Iterator[Captioned]:
    """The photographs of one tar, in its order.

    Raises: ValueError if a member lacks its partner (`KEY.jpg` beside `KEY.json`).
    """
    pending: dict[str, bytes] = {}
    with tarfile.open(shard) as archive:
        for member in archive:
            key, _, kind = member.name.partition(".")
            stream = archive.extractfile(member)
            assert stream is not None, member.name
            if kind == "jpg":
                pending[key] = stream.read()
            elif kind == "json":
                if key not in pending:
                    raise ValueError(f"{shard}: {member.name} has no {key}.jpg before it; write picture and JSON side by side")
                known = json.loads(stream.read())
                captions = tuple(written(caption) for caption in known["captions"])
                yield Captioned(key=key, origin=known["id"], picture=pending.pop(key), captions=captions)
    if pending:
        raise ValueError(f"{shard}: pictures without JSON: {sorted(pending)[:5]}")


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
    pictures, words = set(), set()
    for item in kept_out:
        pictures.add(item.origin.partition("_")[0])
        words.update(_bare(caption) for caption in item.captions)
    rows = _zipped_lines(data / "multi30k" / "train.jsonl.gz")
    return [written(row["en"]) for row in rows if row["image"].partition(".")[0] not in pictures and _bare(row["en"]) not in words]
