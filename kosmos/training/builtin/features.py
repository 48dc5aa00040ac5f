"""What the frozen eye sees, computed once and kept on disk: views of every picture, one file a shard and view.

A view is the picture itself, its mirror image, or a crop (even numbers as taken, odd ones mirrored). ReLU6 outputs lie
in 0..6; a byte holds the square root of a value, which keeps small values fine (step 0.006 at 0.1). Files appear whole
(written beside, then renamed) and are not computed again. Knows nothing of captions or training.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from vision.efficientnet import (
    FEATURE_WIDTH,
    NUM_FEATURES,
    EfficientNetLite0,
    folded_weights,
    registry_weights,
)

__all__ = ["FEATURE_CEILING", "Eye", "cached_features", "features_of", "load_eye", "picture_view", "restored"]

FEATURE_CEILING = 6.0  # ReLU6
IMAGE_SIZE = 224
BATCH = 8  # fastest on two cores: larger batches leave the cache
CROP_AREA = (0.45, 1.0)  # share of the picture a crop keeps
CROP_ASPECT = (0.75, 4 / 3)

Eye = EfficientNetLite0
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Crop:
    left: float
    upper: float
    right: float
    lower: float


def _crop(width: int, height: int, draw: np.random.Generator) -> _Crop:
    area, aspect = draw.uniform(*CROP_AREA), np.exp(draw.uniform(*np.log(CROP_ASPECT)))
    wide = min(1.0, float(np.sqrt(area * aspect))) * width
    high = min(1.0, float(np.sqrt(area / aspect))) * height
    left, upper = draw.uniform(0, width - wide), draw.uniform(0, height - high)
    return _Crop(left, upper, left + wide, upper + high)


def picture_view(picture: bytes, view: int, *, key: str) -> Bytes:
    """View number `view` of an encoded picture as uint8 [3, 224, 224]; crops depend on `key` and `view` alone."""
    opened = Image.open(io.BytesIO(picture)).convert("RGB")
    box = None
    if view >= 2:
        seed = int.from_bytes(blake2b(f"{key}:{view // 2}".encode(), digest_size=8).digest(), "little")
        crop = _crop(opened.width, opened.height, np.random.default_rng(seed + view))
        box = (crop.left, crop.upper, crop.right, crop.lower)
    seen = opened.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=box)
    seen = ImageOps.mirror(seen) if view % 2 else seen
    return np.ascontiguousarray(np.asarray(seen, dtype=np.uint8).transpose(2, 0, 1))


def load_eye() -> Eye:
    """The frozen eye with the registry package's weights."""
    eye = Eye()
    eye.load_state_dict(folded_weights(torch.load(registry_weights(), weights_only=True)))
    return eye.eval()


def _squeezed(features_NPW: Tensor) -> Bytes:
    return (features_NPW / FEATURE_CEILING).sqrt().mul(255).round().to(torch.uint8).numpy()


def restored(stored_NPW: Bytes) -> Tensor:
    """float32 features of the stored bytes, same shape."""
    return torch.from_numpy(stored_NPW).float().div_(255).square_().mul_(FEATURE_CEILING)


@torch.inference_mode()
def features_of(eye: Eye, pixels: Sequence[Bytes]) -> Bytes:
    """Stored bytes [N, 49, 1280] of N pictures given as uint8 [3, 224, 224]."""
    parts = [
        _squeezed(eye(torch.from_numpy(np.stack(pixels[start : start + BATCH]))))
        for start in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, NUM_FEATURES, FEATURE_WIDTH), np.uint8)


def cached_features(
    cache: Path, name: str, view: int, *, eye: Eye, pictures: Callable[[], Sequence[tuple[str, bytes]]]
) -> Bytes:
    """Features of the shard `name`, view `view`: memory-mapped from the cache, computed and stored first if not there.

    Args:
        pictures: gives (key, encoded picture) in order; called only when something must be computed.
    """
    path = cache / f"{name}-view{view:02d}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        stored = features_of(eye, [picture_view(picture, view, key=key) for key, picture in pictures()])
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        with unfinished.open("wb") as file:
            np.save(file, stored)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    loaded: Bytes = np.load(path, mmap_mode="r")
    return loaded
