"""Whatever is no whole picture within the limits is refused: before decoding, in one plain sentence of our own."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.vision.pictures import ALL_KINDS, drawn, encoded, png
from vision.image import SERVING_FORMATS, ImageLimits, open_image

WORDS_OF_PILLOW = ("PIL", "BytesIO", "identify", "truncated", "broken", "decoder", "bomb", "buffer", "Errno", "0x")


def refusal(source: object, **arguments: object) -> str:
    """The one sentence of a refusal, checked to be one and our own."""
    with pytest.raises(ValueError) as caught:
        open_image(source, **arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "\n" not in message
    assert not any(word in message for word in WORDS_OF_PILLOW), message
    return message


@pytest.mark.parametrize("file_format", ["BMP", "TIFF"])
def test_serving_reads_formats_of_the_web_only(file_format: str) -> None:
    data = encoded(drawn(), file_format)
    assert open_image(data).shape == (30, 40, 3)
    assert "give one of JPEG, PNG, WEBP, GIF" in refusal(data, formats=SERVING_FORMATS)


def test_serving_formats_are_read_and_others_unknown_to_pillow_are_named() -> None:
    for file_format in SERVING_FORMATS:
        assert open_image(encoded(drawn(), file_format), formats=[file_format]).shape == (30, 40, 3)
    assert "'EPS'" in refusal(encoded(drawn(), "PNG"), formats=["PNG", "EPS"])
    assert "choose from" in refusal(encoded(drawn(), "PNG"), formats=[])


def test_a_text_file_named_jpg_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "letter.jpg"
    path.write_text("Dear reader, this is no picture.")
    assert "letter.jpg" in refusal(path)
    assert "another format" in refusal(path)


@pytest.mark.parametrize("file_format", ["EPS", "PPM", "ICO", "PDF", "TGA"])
def test_formats_outside_the_list_are_refused(file_format: str) -> None:
    refusal(encoded(drawn(64, 64), file_format))


def test_empty_and_oversized_files_are_refused(tmp_path: Path) -> None:
    empty, large = tmp_path / "empty.png", tmp_path / "large.png"
    empty.write_bytes(b"")
    large.write_bytes(encoded(drawn(), "PNG"))
    assert "is empty" in refusal(b"")
    assert "is empty" in refusal(empty)
    size = large.stat().st_size
    assert f"more than {size - 1} bytes" in refusal(large, limits=ImageLimits(max_bytes=size - 1))
    assert open_image(large, limits=ImageLimits(max_bytes=size)).shape == (30, 40, 3)


def test_a_folder_and_a_missing_file_say_so(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "nowhere.png")


def test_a_source_of_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not int"):
        open_image(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [5_000, 9_500, 12_000, 20_000, 60_000])
def test_a_decompression_bomb_is_refused_before_decoding_and_without_a_warning(side: int) -> None:
    bomb = png(side, side, bits=1, rows=b"")  # would fail as damaged if it were decoded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refusal(bomb, limits=ImageLimits(max_pixels=20_000_000))
    assert "pixels" in message


def test_a_line_of_pixels_is_refused() -> None:
    for width, height in ((1, 50), (50, 1), (1, 1)):
        assert f"{width} x {height}" in refusal(encoded(drawn(height, width), "PNG"))
    assert open_image(encoded(drawn(2, 50), "PNG")).shape == (2, 50, 3)


def test_a_ribbon_that_would_grow_when_cropped_is_refused() -> None:
    assert "200 times" in refusal(encoded(drawn(2, 402), "PNG"))


def test_limits_hold_for_pil_images_too() -> None:
    assert "more than 899" in refusal(Image.new("RGB", (30, 30)), limits=ImageLimits(max_pixels=899))
    assert "each side" in refusal(Image.new("RGB", (1, 30)))


@pytest.mark.parametrize(("file_format", "options"), ALL_KINDS)
def test_a_cut_file_is_refused_or_still_whole(file_format: str, options: dict[str, object]) -> None:
    data = encoded(drawn(), file_format, **options)
    whole = open_image(data)
    cuts = [*range(0, len(data), 29), *range(len(data) - 25, len(data))]
    refused = 0
    for end in cuts:
        try:
            opened = open_image(data[:end])
        except ValueError:
            refused += 1
        else:
            assert np.array_equal(opened, whole), f"half a picture from {end} of {len(data)} bytes"
    assert refused >= len(cuts) - 25  # only what follows the last pixel may be missing
    refusal(data[: len(data) // 2])


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_nothing_but_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        open_image(data)


SEEDS = [encoded(drawn(12, 10), file_format, **options) for file_format, options in ALL_KINDS]
SEEDS += [encoded(Image.fromarray(drawn(12, 10)).convert(mode), "PNG") for mode in ("P", "LA", "1", "I;16")]


@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 999), st.binary(min_size=1, max_size=4)), max_size=6),
    end=st.integers(200, 1000),
)
@settings(max_examples=500, deadline=None)
def test_mutilated_files_open_or_raise_value_error(seed: bytes, changes: list[tuple[int, bytes]], end: int) -> None:
    data = bytearray(seed)
    for place, new in changes:
        # Cubed, so that headers, where damage matters most, are hit often.
        start = int((place / 1000) ** 3 * len(data))
        data[start : start + len(new)] = new
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            opened = open_image(bytes(data[: end * len(data) // 1000]), limits=ImageLimits(max_pixels=1_000_000))
        except ValueError:
            return
    assert opened.dtype == np.uint8
    assert opened.ndim == 3
    assert opened.shape[2] == 3
