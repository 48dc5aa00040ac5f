"""What the bench `data` reads: pairs of photograph and caption, `KEY.jpg` and `KEY.txt`, which every reader knows.

The photographs are those of Flickr8k (160 x 160) where the folder of real data is; else as many are drawn.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.shard import Shard, ShardWriter

__all__ = ["enlarged", "pictures", "write_pairs"]

DRAWN = 64  # pictures drawn, then taken in turn
DRAWN_SIDE = 160


def write_pairs(folder: Path, data: Path, *, documents: int, shards: int) -> list[Path]:
    """Shards of pairs, all of the same number; their indexes beside them.

    Args:
        data: folder of real data.
    """
    pairs = _pairs(data)
    paths = [folder / f"pairs-{number:06}.tar" for number in range(shards)]
    for path in paths:
        with ShardWriter(path) as writer:
            for number, (picture, caption) in enumerate(islice(pairs, documents // shards)):
                writer.write_parts(f"{path.stem}-{number:06}", {"jpg": picture, "txt": caption.encode()})
    return paths


def pictures(data: Path, count: int) -> list[bytes]:
    """Encoded photographs as they are."""
    return [picture for picture, _ in islice(_pairs(data), count)]


def enlarged(picture: bytes, width: int, height: int, quality: int = 85) -> bytes:
    """The same photograph as a larger JPEG."""
    file = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _pairs(data: Path) -> Iterator[tuple[bytes, str]]:
    """Without end."""
    shards = sorted((data / "flickr8k").glob("train-*.tar"))
    return cycle(_photographs(shards) if shards else _drawn())


def _photographs(shards: list[Path]) -> Iterator[tuple[bytes, str]]:
    for path in shards:
        for sample in Shard(path):
            yield sample.parts["jpg"], json.loads(sample.parts["json"])["captions"][0]


def _drawn() -> Iterator[tuple[bytes, str]]:
    for seed in range(DRAWN):
        rough = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        file = io.BytesIO()
        side = (DRAWN_SIDE, DRAWN_SIDE)
        Image.fromarray(rough).resize(side, Image.Resampling.BICUBIC).save(file, "JPEG", quality=70)
        yield file.getvalue(), f"Smooth colours, drawn from seed {seed} ."
