"""Near-duplicate pictures: two perceptual hashes of 64 bits, one to find candidates, one to confirm.

The first (pHash, Zauner 2010) is the signs of the lowest frequencies of a 32 x 32 grey copy; the second (dHash) says
where a 9 x 8 copy grows brighter. Both survive other sizes, other compression and a trim of a few pixels; a crop of a
tenth, a mirror or a rotation they do not. Search by Norouzi et al. 2012, "Fast search in Hamming space with
multi-index hashing": cut into n parts, two hashes 2n - 1 bits apart differ by one bit at most in one of the parts.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from vision.image import Picture

__all__ = ["CONFIRM_BITS", "PictureHash", "PictureIndex", "picture_hash"]

CONFIRM_BITS = 16
"""Bits of the second hash that may differ; of the 24 million pairs of Flickr8k's photographs, none alike by the first
hash but one true duplicate came below 22."""
PLAIN = 3.0  # standard deviation of grey levels under which a picture has no features to hash
_SIDE, _LOW = 32, 8
_STEPS = np.arange(_SIDE)
_COSINES = np.cos(np.pi * (2 * _STEPS + 1) * np.arange(1, _LOW + 1)[:, None] / (2 * _SIDE))
"""Rows 1 to 8 of the discrete cosine transform: row 0, the mean, says nothing."""


class PictureHash(NamedTuple):
    """Two times 64 bits."""

    find: int
    confirm: int


def picture_hash(colors: Picture) -> PictureHash | None:
    """Hashes of a picture of any size; None for one so plain that its hash would be chance."""
    grey = Pillow.fromarray(colors).convert("L")
    small = np.asarray(grey.resize((_SIDE, _SIDE), Pillow.Resampling.LANCZOS), dtype=np.float64)
    if small.std() < PLAIN:
        return None
    waves = _COSINES @ small @ _COSINES.T
    steps = np.asarray(grey.resize((_LOW + 1, _LOW), Pillow.Resampling.LANCZOS), dtype=np.int16)
    return PictureHash(_number(waves > np.median(waves)), _number(steps[:, 1:] > steps[:, :-1]))


class PictureIndex:
    """Hashes with an owner each, found again by any hash at most `max_distance` bits away."""

    def __init__(self, max_distance: int) -> None:
        self._max_distance = max_distance
        self._parts = _parts(max_distance // 2 + 1)
        self._find, self._confirm, self._owners = array("Q"), array("Q"), array("q")
        self._buckets: list[defaultdict[int, array[int]]] = [defaultdict(_numbers) for _ in self._parts]

    def add(self, owner: int, picture: PictureHash) -> None:
        """Remember a picture."""
        for bucket, part in zip(self._buckets, self._parts, strict=True):
            bucket[part.of(picture.find)].append(len(self._owners))
        self._find.append(picture.find)
        self._confirm.append(picture.confirm)
        self._owners.append(owner)

    def find(self, picture: PictureHash) -> dict[int, int]:
        """Owners of pictures like this one, and how many bits the nearest is away."""
        numbers = np.frombuffer(self._candidates(picture.find), dtype=np.int64)
        distances = _bits_apart(self._find, numbers, picture.find)
        alike = (distances <= self._max_distance) & (
            _bits_apart(self._confirm, numbers, picture.confirm) <= CONFIRM_BITS
        )
        found: dict[int, int] = {}
        for number, distance in zip(numbers[alike].tolist(), distances[alike].tolist(), strict=True):
            owner = self._owners[number]
            found[owner] = min(distance, found.get(owner, distance))
        return found

    def _candidates(self, wanted: int) -> array[int]:
        found = _numbers()
        for bucket, part in zip(self._buckets, self._parts, strict=True):
            bits = part.of(wanted)
            for flip in part.flips:
                if (numbers := bucket.get(bits ^ flip)) is not None:
                    found.extend(numbers)
        return found


class _Part(NamedTuple):
    """A run of bits of a hash, and what to flip in it: nothing, or any one bit."""

    shift: int
    mask: int
    flips: tuple[int, ...]

    def of(self, bits: int) -> int:
        return bits >> self.shift & self.mask


def _parts(count: int) -> list[_Part]:
    """64 bits in `count` parts, about equally long."""
    edges = [64 * part // count for part in range(count + 1)]
    return [
        _Part(start, (1 << end - start) - 1, (0, *(1 << bit for bit in range(end - start))))
        for start, end in pairwise(edges)
    ]


def _numbers() -> array[int]:
    return array("q")


def _bits_apart(hashes: array[int], numbers: NDArray[np.int64], wanted: int) -> NDArray[np.uint8]:
    if not len(numbers):
        return np.empty(0, dtype=np.uint8)
    apart: NDArray[np.uint8] = np.bitwise_count(np.frombuffer(hashes, dtype=np.uint64)[numbers] ^ np.uint64(wanted))
    return apart


def _number(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
