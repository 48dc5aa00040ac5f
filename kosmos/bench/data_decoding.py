"""The cases `decode-small` and `decode-large`: JPEG to a square of bytes, beside Pillow's usual way.

Small pictures are the shared ones as they are, large ones the same enlarged. The limit is decoding alone, at the
fraction that ours takes. How far the pixels are from those of the exact way (that of evaluation and serving) stands
beside, in levels of 0..255.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image

from kosmos.bench.data_corpus import enlarged, pictures
from kosmos.bench.figure import Figure
from kosmos.bench.rates import rate_figure
from kosmos.bench.timing import in_turn
from vision.fast_decode import OVERSAMPLING, decode_square
from vision.image import Picture, open_image, resize

if TYPE_CHECKING:
    from kosmos.bench.data import DataBench

__all__ = ["large_case", "small_case"]

SIDE = 224
LARGE = (1280, 960)
LARGE_SHARE = 10  # large pictures take so much longer that a tenth of them will do


def small_case(bench: DataBench, folder: Path) -> Figure:
    """The pictures as they are; none is reduced."""
    return _case("decode-small", pictures(bench.data, bench.pictures), bench, least=0)


def large_case(bench: DataBench, folder: Path) -> Figure:
    """1280 x 960, decoded at half the size."""
    small = pictures(bench.data, max(1, bench.pictures // LARGE_SHARE))
    return _case("decode-large", [enlarged(one, *LARGE) for one in small], bench, least=OVERSAMPLING * SIDE)


def _case(name: str, encoded: Sequence[bytes], bench: DataBench, *, least: int) -> Figure:
    contestants: dict[str, Callable[[bytes], object]] = {
        "ours": _ours,
        "limit": lambda source: simplejpeg.decode_jpeg(source, "RGB", min_height=least, min_width=least),
    }
    if bench.peers:
        contestants["pillow"] = _by_pillow
    turns = {contestant: partial(_each, decode, encoded) for contestant, decode in contestants.items()}
    timed = in_turn(turns, bench.rounds, bench.clock)
    return rate_figure(name, "images/s", len(encoded), timed, notes=_differences(encoded))


def _each(decode: Callable[[bytes], object], encoded: Sequence[bytes]) -> None:
    for source in encoded:
        decode(source)


def _ours(source: bytes) -> Picture:
    return decode_square(source, SIDE, "squash")


def _by_pillow(source: bytes) -> Picture:
    image = Image.open(io.BytesIO(source)).convert("RGB")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _differences(encoded: Sequence[bytes]) -> dict[str, float]:
    apart = np.stack(
        [np.abs(_ours(source).astype(np.int16) - resize(open_image(source), SIDE, "squash")) for source in encoded]
    )
    return {
        "mean difference": float(apart.mean()),
        "99.9th percentile": float(np.percentile(apart, 99.9)),
        "largest difference": float(apart.max()),
    }
