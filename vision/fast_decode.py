"""Pictures made square for training: several times faster than `vision.image`, and within a few levels of it.

A plain upright JPEG is decoded at a half, a quarter or an eighth of its size where that leaves enough pixels (libjpeg's
scaled transforms, by simplejpeg), then resized by torch's bicubic filter for bytes. Whatever is anything else, or
wrong, goes the way of `vision.image`, so that every refusal is that one's. Evaluation and serving do not come here.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import simplejpeg
import torch
from PIL import Image
from torch.nn import functional as F

from vision.image import ImageLimits, Picture, ResizeRule, check_size, open_image, resize
from vision.strict_pillow import strict_pillow

__all__ = ["OVERSAMPLING", "decode_square"]

LIMITS = ImageLimits()
JPEG = b"\xff\xd8\xff"
APP1 = b"\xff\xe1"  # the marker of EXIF and XMP; coded pixels cannot hold it, their 0xff is followed by 0x00
ORIENTATION, UPRIGHT = 0x0112, 1
COLORSPACES = ("YCbCr", "RGB", "Gray")
REDUCTIONS = (8, 4, 2)  # the scaled transforms that have vector code; 3/8 and its like take longer than 1/2
OVERSAMPLING = 2
"""Pixels kept for each one wanted, a side; with 1 the largest difference on photographs is three times as large."""
NUDGE = 1 + 1e-9  # sizes are floored, and 240 * (224 / 240) may lie just below 224


class _Size(NamedTuple):
    """In pixels of the whole picture."""

    height: int
    width: int


def decode_square(source: bytes, side: int, rule: ResizeRule, *, limits: ImageLimits = LIMITS) -> Picture:
    """What `resize(open_image(source), side, rule)` gives, nearly.

    Args:
        source: an encoded file of any format `open_image` takes.
        side, rule: as of `vision.image.resize`.
    Returns: uint8 [side, side, 3]; of a JPEG it lies in memory channel by channel, as models want it.
    Raises: what `open_image` and `resize` raise.
    """
    size = _size_of_plain_jpeg(source, limits)
    if size is not None and side >= 1 and rule in ("squash", "crop"):
        try:
            return _square(source, size, side, rule)
        except _NotForUs:
            pass
    return resize(open_image(source, limits=limits), side, rule)


def _size_of_plain_jpeg(source: bytes, limits: ImageLimits) -> _Size | None:
    """None for all but grey or coloured JPEGs that are the right way up. Raises: ValueError beyond the limits."""
    if not source.startswith(JPEG) or len(source) > limits.max_bytes:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(source)
    except ValueError:
        return None
    check_size(width, height, limits)
    return _Size(height, width) if colorspace in COLORSPACES and _is_upright(source) else None


def _is_upright(source: bytes) -> bool:
    if APP1 not in source:
        return True
    with strict_pillow():
        try:
            with Image.open(io.BytesIO(source), formats=("JPEG",)) as image:
                return bool(image.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT)
        except Exception:  # hostile bytes raise many types; the usual way has the words for them
            return False


def _square(source: bytes, size: _Size, side: int, rule: ResizeRule) -> Picture:
    shortest = min(size)
    reduction = next((times for times in REDUCTIONS if shortest >= OVERSAMPLING * side * times), 1)
    pixels = _reduced(source, size, reduction)
    if rule == "squash":
        return _scaled(pixels, size, reduction, _Size(side, side))
    whole = _Size(int(side * size.height / shortest), int(side * size.width / shortest))
    top, left = (round((length - side) / 2) for length in whole)  # as `resize` has it
    return _scaled(pixels, size, reduction, whole)[top : top + side, left : left + side]


def _reduced(source: bytes, size: _Size, reduction: int) -> Picture:
    height, width = (-(-length // reduction) for length in size)
    try:
        pixels: Picture = simplejpeg.decode_jpeg(source, "RGB", min_height=height, min_width=width)
    except ValueError as error:
        raise _NotForUs from error
    return pixels


def _scaled(pixels: Picture, size: _Size, reduction: int, wanted: _Size) -> Picture:
    """Bring a reduced picture to the size wanted.

    A width of 427 was reduced by 2 to 214 pixels that show 213.5: scaling by 214 would shift all by up to half a pixel.
    """
    factors = tuple(to * reduction / length * NUDGE for to, length in zip(wanted, size, strict=True))
    pixels_N3HW = torch.from_numpy(pixels[None]).permute(0, 3, 1, 2)
    scaled_N3HW = F.interpolate(pixels_N3HW, scale_factor=factors, mode="bicubic", antialias=True)
    scaled: Picture = scaled_N3HW[0].permute(1, 2, 0).numpy()
    return scaled


class _NotForUs(Exception):
    """Torn, or a kind of JPEG that only Pillow knows."""
