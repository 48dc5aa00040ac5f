"""Small shards and pictures that the tests of the data pipelines write."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from data_pipelines.shard import ShardWriter, open_shard
from text.document import Document, Image, Text

__all__ = ["bytes_of_shards", "document", "encode", "keys_of", "noise", "photographs", "write_shard"]


def noise(seed: int, width: int = 96, height: int = 80) -> Pillow.Image:
    """A picture like no other: soft blobs of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Pillow.fromarray(coarse).resize((width, height), Pillow.Resampling.BICUBIC)


def encode(picture: Pillow.Image, kind: str = "JPEG", quality: int = 85) -> bytes:
    """As a file."""
    file = BytesIO()
    picture.convert("RGB").save(file, kind, quality=quality)
    return file.getvalue()


@cache
def photographs() -> dict[str, Pillow.Image]:
    """The sample photographs of scikit-learn and scikit-image, which come with the packages."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    names = ("astronaut", "camera", "coffee", "chelsea", "rocket", "page", "coins", "moon")
    found = {name: Pillow.fromarray(getattr(data, name)()).convert("RGB") for name in names}
    return found | {name: Pillow.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")}


def document(*parts: str | bytes, **meta: object) -> Document:
    """Words and encoded pictures, in reading order."""
    return Document(tuple(Text(part) if isinstance(part, str) else Image(part) for part in parts), meta)


def write_shard(path: Path, documents: Mapping[str, Document]) -> str:
    """A shard of documents by key; its path."""
    with ShardWriter(path) as writer:
        for key, one in documents.items():
            writer.write(key, one)
    return str(path)


def keys_of(path: Path) -> list[str]:
    """Keys of a shard, in order."""
    with open_shard(str(path)) as shard:
        return [sample.key for sample in shard]


def bytes_of_shards(folder: Path) -> dict[str, bytes]:
    """Every shard, index and list in a folder; what lies in `.kosmos` is the run's own."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
