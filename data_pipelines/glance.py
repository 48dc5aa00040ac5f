"""A first look at an encoded picture: its size and kind from the header, and a reduced copy of its colours.

A JPEG is decoded at a fraction of its size (2, 4 or 8 times smaller, libjpeg's scaled decoding), which is enough to see
whether it is whole, plain, or like another. Hostile bytes are refused as `vision.image` refuses them.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import JpegImagePlugin

from text.document import Image
from vision.image import FILE_FORMATS, ImageLimits, Picture, open_image
from vision.strict_pillow import strict_pillow

__all__ = ["REDUCED_SIDE", "Header", "encoded", "read_header", "reduced"]

REDUCED_SIDE = 64
"""Shortest side in pixels that a reduced picture keeps at least (where the picture has as many)."""
LIMITS = ImageLimits()


class Header(NamedTuple):
    """Width and height in pixels, as stored; kind as Pillow names it (JPEG, PNG ...)."""

    width: int
    height: int
    kind: str


def encoded(image: Image) -> bytes:
    """The file's bytes of a picture that came from a shard."""
    if not isinstance(image.source, bytes):
        raise TypeError(f"a picture of a shard is bytes, not {type(image.source).__name__}")
    return image.source


def read_header(data: bytes) -> Header:
    """Size and kind, without decoding. Raises: ValueError for what is no picture."""
    with _open(data) as image:
        return Header(*image.size, image.format or "")


@lru_cache(maxsize=16)  # several rules look at the pictures of one document
def reduced(data: bytes) -> Picture:
    """The colours, about `REDUCED_SIDE` to twice that a side.

    Returns: uint8 [height, width, 3], upright; not to be written to.
    Raises: ValueError for what is no whole picture within the limits of `vision.image`.
    """
    with _open(data) as image:
        if max(image.size) > LIMITS.max_aspect * min(image.size) or image.width * image.height > LIMITS.max_pixels:
            return open_image(data)  # which says why it is refused
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft("RGB", (REDUCED_SIDE, REDUCED_SIDE))
        colors = open_image(image)
    factor = max(1, min(colors.shape[:2]) // REDUCED_SIDE)
    if factor > 1:
        colors = np.array(Pillow.fromarray(colors).reduce(factor))
    colors.flags.writeable = False
    return colors


def _open(data: bytes) -> Pillow.Image:
    if len(data) > LIMITS.max_bytes:
        raise ValueError(f"picture has more than {LIMITS.max_bytes} bytes; make it smaller")
    with strict_pillow():
        try:
            return Pillow.open(io.BytesIO(data), formats=FILE_FORMATS)
        except Exception:  # readers raise many types on hostile bytes
            raise ValueError("picture is cut short, damaged or of another format") from None
