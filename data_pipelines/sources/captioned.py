"""Photographs with captions in tars (`KEY.jpg` beside `KEY.json`). Knows nothing of models."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources.written import written

__all__ = ["Captioned", "captioned", "photographs"]


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """One photograph and what people said of it; `key` is its name in the set, `origin` its name at Flickr."""

    key: str
    origin: str
    picture: bytes
    captions: tuple[str, ...]


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
                    raise ValueError(
                        f"{shard}: {member.name} has no {key}.jpg before it; write picture and JSON side by side"
                    )
                known = json.loads(stream.read())
                captions = tuple(written(caption) for caption in known["captions"])
                yield Captioned(key=key, origin=known["id"], picture=pending.pop(key), captions=captions)
    if pending:
        raise ValueError(f"{shard}: pictures without JSON: {sorted(pending)[:5]}")


def photographs(data: Path, split: str) -> list[Captioned]:
    """All captioned photographs of `flickr8k/SPLIT-*.tar`, in order.

    Raises: FileNotFoundError if there is no such tar.
    """
    shards = sorted((data / "flickr8k").glob(f"{split}-*.tar"))
    if not shards:
        raise FileNotFoundError(f"no {split}-*.tar in {data / 'flickr8k'}; give the folder of the data by --data")
    return [item for shard in shards for item in captioned(shard)]
