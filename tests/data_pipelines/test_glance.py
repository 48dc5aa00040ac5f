"""A glance at a picture believes its bytes and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow

from data_pipelines.glance import REDUCED_SIDE, read_header, reduced
from tests.data_pipelines.written import encode, noise, photographs


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_size_and_kind_come_from_the_header(kind: str) -> None:
    assert read_header(encode(noise(0, 120, 70), kind)) == (120, 70, kind)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_reduced_picture_shows_the_same_as_the_whole_one(kind: str) -> None:
    whole = photographs()["china.jpg"]
    small = reduced(encode(whole, kind))
    height, width = small.shape[:2]
    assert REDUCED_SIDE <= min(height, width) < 3 * REDUCED_SIDE
    wanted = np.asarray(whole.resize((width, height), Pillow.Resampling.BOX)).astype(int)
    assert np.abs(small.astype(int) - wanted).mean() < 8


@pytest.mark.parametrize("data", [b"", b"no picture", encode(noise(0))[:900], b"\xff\xd8\xff" + bytes(100)])
def test_bytes_that_are_no_whole_picture_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="picture"):
        reduced(data)


def test_a_small_file_of_enormous_size_is_refused_before_it_is_decoded() -> None:
    bomb = bytearray(encode(noise(0)))
    sizes = bomb.index(b"\xff\xc0") + 5  # height and width in the frame header of a JPEG
    bomb[sizes : sizes + 4] = (8_000).to_bytes(2, "big") + (12_000).to_bytes(2, "big")
    assert read_header(bytes(bomb)) == (12_000, 8_000, "JPEG")
    with pytest.raises(ValueError, match="12000 x 8000 pixels, more than"):
        reduced(bytes(bomb))
