"""Pictures of any kind in, uint8 arrays of red, green and blue out; and the two ways to make them square.

`open_image` treats a file as hostile: it believes bytes, not names, knows few formats, looks at sizes before it
decodes, and says every refusal in one sentence of its own. `resize` is bit-equal to what the models were used with.
Numpy and Pillow only: no torch, so that data workers and the HTTP side stay light. Knows nothing of towers.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vision.strict_pillow import strict_pillow

__all__ = [
    "FILE_FORMATS",
    "SERVING_FORMATS",
    "ImageLimits",
    "Picture",
    "ResizeRule",
    "Source",
    "check_size",
    "open_image",
    "resize",
]

Picture: TypeAlias = NDArray[np.uint8]
"""Height x width x 3, red, green, blue."""
Source: TypeAlias = bytes | str | PathLike[str] | Image.Image
ResizeRule: TypeAlias = Literal["squash", "crop"]

# Imported by name, so that Pillow registers these six readers and never goes looking for its forty others.
_READERS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    GifImagePlugin.GifImageFile,
)
FILE_FORMATS = tuple(reader.format for reader in _READERS)
"""Pillow's names of the formats read from disk: JPEG, PNG, WEBP, BMP, TIFF, GIF (first frame)."""
SERVING_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What strangers may send: formats of the web; TIFF and BMP readers are left out of their reach."""


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What is refused before anything is decoded.

    Attributes:
        max_bytes: of the encoded file.
        max_pixels: width x height; a decoded pixel takes 3 to 8 bytes.
        min_side: shortest side in pixels; a line of pixels is a mistake, not a picture.
        max_aspect: longest side / shortest side; `crop` scales the shortest side up, and the longest with it.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 80_000_000
    min_side: int = 2
    max_aspect: float = 200.0


def open_image(
    source: Source, *, formats: Sequence[str] = FILE_FORMATS, limits: ImageLimits = ImageLimits()
) -> Picture:
    """Decode a picture upright, over white where it is transparent, with 8 bits a channel.

    Args:
        source: an encoded file as bytes, its path, or a PIL image (taken as it is: `formats` and `max_bytes` cannot
            apply).
        formats: formats to accept, from `FILE_FORMATS`. The content decides, never a file's name.
    Returns: uint8 [height, width, 3]. 16-bit channels keep their upper byte. Numbers without a fixed range (32-bit
        integers and floats) are read as the narrowest customary range that holds their largest value.
    Raises: ValueError, one sentence, for anything that is no whole picture within the limits; OSError if a path
        cannot be read; TypeError for a source of another type.
    """
    unknown = sorted(set(formats) - set(FILE_FORMATS))
    if unknown or not formats:
        raise ValueError(f"cannot read picture formats {unknown}; choose from {', '.join(FILE_FORMATS)}")
    if isinstance(source, Image.Image):
        return _decode(source, "picture", limits)
    name, data = _read(source, limits)
    with strict_pillow():
        try:
            image = Image.open(io.BytesIO(data), formats=tuple(formats))
        except Image.DecompressionBombError:
            raise ValueError(f"{name} has too many pixels to be decoded safely; make it smaller") from None
        except Exception:  # readers raise many types on hostile bytes, and their words would confuse
            kinds = ", ".join(formats)
            raise ValueError(f"{name} is cut short, damaged or of another format; give one of {kinds}") from None
    with image:
        return _decode(image, name, limits)


def resize(image: Picture, side: int, rule: ResizeRule) -> Picture:
    """Make a picture square, by Pillow's bicubic filter.

    Args:
        image: uint8 [height, width, 3].
        side: of the result, in pixels.
        rule: `squash` stretches the whole picture to the square, as Kosmos-2 does at inference (bit-equal to
            transformers' Pillow processor); `crop` scales the shortest side and takes the middle, as CLIP does
            (bit-equal to open_clip's evaluation transform).
    Returns: uint8 [side, side, 3].
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"resize takes uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
    if side < 1:
        raise ValueError(f"cannot resize a picture to side={side}; give at least 1 pixel")
    if rule == "squash":
        return _scale(image, width=side, height=side)
    if rule != "crop":
        raise ValueError(f"unknown resize rule {rule!r}; known rules: squash, crop")
    height, width = image.shape[:2]
    shortest = min(height, width)
    # Floor for the longest side and halves rounded to even for the corner: torchvision's arithmetic, bit for bit.
    scaled = _scale(image, width=int(side * width / shortest), height=int(side * height / shortest))
    top, left = (round((length - side) / 2) for length in scaled.shape[:2])
    return np.ascontiguousarray(scaled[top : top + side, left : left + side])


def check_size(width: int, height: int, limits: ImageLimits, *, name: str = "picture") -> None:
    """Refuse a picture by what its header says. Raises: ValueError."""
    if width * height > limits.max_pixels:
        raise ValueError(f"{name} has {width} x {height} pixels, more than {limits.max_pixels}; make it smaller")
    if min(width, height) < limits.min_side:
        raise ValueError(f"{name} has {width} x {height} pixels; each side needs at least {limits.min_side}")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ValueError(
            f"{name} has {width} x {height} pixels; one side may be {limits.max_aspect:g} times the other at most"
        )


def _scale(image: Picture, *, width: int, height: int) -> Picture:
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _read(source: bytes | str | PathLike[str], limits: ImageLimits) -> tuple[str, bytes]:
    """How to name the source in a message, and its bytes."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "picture", bytes(source)
    elif isinstance(source, (str, PathLike)):
        name = f"picture {os.fspath(source)!r}"
        if not stat.S_ISREG(os.stat(source).st_mode):  # a pipe or a device may never end
            raise ValueError(f"{name} is not a file")
        with open(source, "rb") as file:
            data = file.read(limits.max_bytes + 1)
    else:
        raise TypeError(f"a picture is bytes, a path or a PIL image, not {type(source).__name__}")
    if not data:
        raise ValueError(f"{name} is empty")
    if len(data) > limits.max_bytes:
        raise ValueError(f"{name} has more than {limits.max_bytes} bytes; make it smaller")
    return name, data


def _decode(image: Image.Image, name: str, limits: ImageLimits) -> Picture:
    check_size(image.width, image.height, limits, name=name)
    with strict_pillow():
        try:
            image.load()
            colors = _colors(image)
            upright = _UPRIGHT.get(_orientation(image), _as_it_is)(colors)
        except Exception:  # see open_image
            raise ValueError(f"{name} is cut short or damaged; give the whole file") from None
    return np.ascontiguousarray(upright)


def _colors(image: Image.Image) -> Picture:
    """Any mode of Pillow to 8-bit red, green, blue."""
    if image.mode.startswith(("I", "F")):
        return _from_numbers(image)
    if image.has_transparency_data:
        layers = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(layers, mask=layers.getchannel("A"))
        return np.asarray(paper)
    return np.asarray(image.convert("RGB"))


def _from_numbers(image: Image.Image) -> Picture:
    """Grey levels of 16 or 32 bits. Pillow's own conversion would cut everything above 255."""
    numbers = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = (numbers >> (4 if _tiff_tag(image, _BITS) == 12 else 8)).astype(np.uint8)
        if isinstance(hidden := image.info.get("transparency"), int):
            grey[numbers == hidden] = 255
    else:
        if _tiff_tag(image, _BITS) == 32 and _tiff_tag(image, _SIGN) == 1:
            numbers = numbers.view(np.uint32)  # Pillow has no unsigned mode of 32 bits
        levels = np.nan_to_num(numbers.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        top = float(np.max(levels))
        white = next((white for white in _WHITES[image.mode] if top <= white), top)
        grey = (np.clip(levels / white, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    if _tiff_tag(image, _MEANING) == 0:  # zero is white, which Pillow minds in pictures of 8 bits only
        grey = 255 - grey
    return np.repeat(grey[:, :, None], 3, axis=2)


_WHITES = {"I": (255.0, 65_535.0, 2.0**31 - 1, 2.0**32 - 1), "F": (1.0, 255.0, 65_535.0)}
_BITS, _MEANING, _SIGN = 258, 262, 339


def _tiff_tag(image: Image.Image, tag: int) -> object:
    """A tag's only value; of other formats and of tags that are not there, None."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    value: object = image.tag_v2.get(tag, 1 if tag == _SIGN else None)
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _orientation(image: Image.Image) -> int:
    """The EXIF tag that says how the camera was held; 1 (upright) where there is none."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a damaged note about a whole picture
        return 1


def _as_it_is(colors: Picture) -> Picture:
    return colors


_UPRIGHT: dict[int, Callable[[Picture], Picture]] = {
    2: lambda colors: colors[:, ::-1],
    3: lambda colors: colors[::-1, ::-1],
    4: lambda colors: colors[::-1],
    5: lambda colors: colors.swapaxes(0, 1),
    6: lambda colors: np.rot90(colors, -1),
    7: lambda colors: colors[::-1, ::-1].swapaxes(0, 1),
    8: lambda colors: np.rot90(colors),
}
