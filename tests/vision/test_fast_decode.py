"""Fast decoding stays near the exact way for every picture, and is the exact way for all but plain upright JPEGs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.vision.pictures import drawn, encoded, noise, photographs
from vision import fast_decode
from vision.fast_decode import decode_square
from vision.image import ImageLimits, Picture, ResizeRule, open_image, resize

RULES: tuple[ResizeRule, ...] = ("squash", "crop")
PHOTOGRAPH = photographs()[0]


def exactly(source: bytes, side: int, rule: ResizeRule) -> Picture:
    return resize(open_image(source), side, rule)


def differences(source: bytes, side: int, rule: ResizeRule) -> np.ndarray:
    return np.abs(decode_square(source, side, rule).astype(int) - exactly(source, side, rule))


def photograph(path: Path, **options: object) -> bytes:
    return encoded(Image.open(path).convert("RGB"), "JPEG", quality=90, **options)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("path", photographs(), ids=lambda path: path.name)
def test_without_reduction_only_rounding_differs(path: Path, rule: ResizeRule) -> None:
    apart = differences(photograph(path), 224, rule)
    assert apart.max() <= 2
    assert apart.mean() < 0.01


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("path", photographs()[:4], ids=lambda path: path.name)
def test_reduced_photographs_differ_by_few_levels(path: Path, reduction: int, rule: ResizeRule) -> None:
    source = photograph(path)
    side = min(open_image(source).shape[:2]) // (2 * reduction)
    apart = differences(source, side, rule)
    assert apart.mean() < 1.0
    assert np.percentile(apart, 99) <= 6
    assert apart.max() <= 20


def test_large_pictures_are_decoded_at_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    decode = fast_decode.simplejpeg.decode_jpeg

    def watched(*arguments: object, **options: object) -> Picture:
        picture: Picture = decode(*arguments, **options)
        seen.append(picture.shape)
        return picture

    monkeypatch.setattr(fast_decode.simplejpeg, "decode_jpeg", watched)
    source = encoded(drawn(427, 641), "JPEG")
    for side in (26, 53, 106, 107):
        decode_square(source, side, "crop")
    assert seen == [(54, 81, 3), (107, 161, 3), (214, 321, 3), (427, 641, 3)]


@given(
    height=st.integers(2, 300),
    width=st.integers(2, 300),
    side=st.integers(1, 64),
    rule=st.sampled_from(RULES),
    quality=st.sampled_from([50, 95]),
    subsampling=st.sampled_from(["4:4:4", "4:2:0"]),
)
@settings(max_examples=60)
def test_smooth_pictures_of_any_size_stay_near(
    height: int, width: int, side: int, rule: ResizeRule, quality: int, subsampling: str
) -> None:
    source = encoded(drawn(height, width), "JPEG", quality=quality, subsampling=subsampling)
    square = decode_square(source, side, rule)
    assert square.shape == (side, side, 3)
    assert square.dtype == np.uint8
    assert differences(source, side, rule).mean() < 6


@pytest.mark.parametrize(
    ("file_format", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("GIF", "P", {}),
        ("JPEG", "CMYK", {}),
    ],
)
def test_other_kinds_go_the_exact_way(file_format: str, mode: str, options: dict[str, object]) -> None:
    source = encoded(Image.fromarray(drawn(90, 120)).convert("L" if mode == "I;16" else mode), file_format, **options)
    assert not differences(source, 31, "crop").any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photographs_come_out_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = photograph(PHOTOGRAPH, exif=exif)
    assert differences(source, 160, "squash").max() <= 2
    turned = not np.array_equal(exactly(source, 160, "squash"), exactly(photograph(PHOTOGRAPH), 160, "squash"))
    assert turned == (orientation != 1)


def test_orientation_in_xmp_is_minded() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    source = photograph(PHOTOGRAPH, xmp=xmp)
    assert not differences(source, 160, "squash").any()


def test_grey_and_progressive_photographs_are_decoded_too() -> None:
    grey = encoded(Image.open(PHOTOGRAPH).convert("L"), "JPEG")
    for source in (grey, photograph(PHOTOGRAPH, progressive=True)):
        assert differences(source, 50, "squash").mean() < 1.0


@pytest.mark.parametrize("rule", RULES)
def test_a_square_lies_channel_by_channel(rule: ResizeRule) -> None:
    channels_first = decode_square(photograph(PHOTOGRAPH), 64, rule).transpose(2, 0, 1)
    assert channels_first.strides[2] == 1


LIMITS = ImageLimits(max_bytes=40_000, max_pixels=50_000, min_side=20, max_aspect=4.0)


@pytest.mark.parametrize(
    "source",
    [
        encoded(noise(200, 200), "JPEG", quality=100),
        encoded(drawn(300, 300), "JPEG"),
        encoded(drawn(10, 30), "JPEG"),
        encoded(drawn(30, 150), "JPEG"),
        photograph(PHOTOGRAPH)[:5_000],
        encoded(drawn(), "JPEG")[:-300],
        b"\xff\xd8\xff",
        b"",
        b"GIF8",
    ],
    ids=["bytes", "pixels", "side", "aspect", "large and torn", "torn", "mark", "empty", "other"],
)
def test_what_is_refused_is_refused_in_the_same_words(source: bytes) -> None:
    with pytest.raises(ValueError) as usual:
        open_image(source, limits=LIMITS)
    with pytest.raises(ValueError) as fast:
        decode_square(source, 16, "squash", limits=LIMITS)
    assert str(fast.value) == str(usual.value)


@pytest.mark.parametrize("limit", ["max_pixels", "min_side", "max_aspect"])
def test_sizes_are_looked_at_before_anything_is_decoded(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fast_decode.simplejpeg, "decode_jpeg")
    tight = {"max_pixels": ImageLimits(max_pixels=9), "min_side": ImageLimits(min_side=99)}
    limits = tight.get(limit, ImageLimits(max_aspect=1.1))
    with pytest.raises(ValueError, match="pixels"):
        decode_square(encoded(drawn(), "JPEG"), 16, "squash", limits=limits)


@given(data=st.data())
@settings(max_examples=120)
def test_damaged_files_never_come_out_where_the_exact_way_refuses(data: st.DataObject) -> None:
    source = bytearray(encoded(drawn(40, 48), "JPEG"))
    for _ in range(data.draw(st.integers(1, 3))):
        source[data.draw(st.integers(2, len(source) - 1))] = data.draw(st.integers(0, 255))
    exact = outcome(open_image, bytes(source))
    fast = outcome(decode_square, bytes(source), 16, "squash")
    if isinstance(exact, str) or isinstance(fast, str):
        assert fast == exact
    else:
        assert np.abs(fast.astype(int) - resize(exact, 16, "squash")).mean() < 6


def outcome(decode: Callable[..., Picture], *arguments: object) -> Picture | str:
    """A picture, or the words of a refusal."""
    try:
        return decode(*arguments)
    except ValueError as error:
        return str(error)


def test_wrong_sides_and_rules_are_named() -> None:
    source = encoded(drawn(), "JPEG")
    with pytest.raises(ValueError, match="side=0"):
        decode_square(source, 0, "squash")
    with pytest.raises(ValueError, match="unknown resize rule 'stretch'"):
        decode_square(source, 8, "stretch")  # type: ignore[arg-type]
