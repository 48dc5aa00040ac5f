"""Both resize rules give the very bytes of the packages whose models were used with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import image_transform
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.vision.pictures import noise, photographs
from vision.config import CLIP_MEAN, CLIP_STD
from vision.image import Picture, ResizeRule, open_image, resize

SIZES = [(2, 400), (400, 2), (3, 3), (31, 224), (224, 31), (223, 225), (224, 224), (225, 223), (37, 41), (299, 448)]
SIZES += [(333, 500), (500, 333), (449, 448), (640, 479), (101, 1009), (1009, 101), (675, 1023)]


def kosmos2_processor(picture: Picture, side: int) -> np.ndarray:
    """Kosmos-2's published preprocessor settings in transformers' Pillow processor: floats [3, side, side]."""
    square = {"height": side, "width": side}
    options = {"size": square} if side != 224 else {"use_square_size": True}
    processor = CLIPImageProcessorPil(crop_size=square, resample=3, **options)
    return np.asarray(processor(Image.fromarray(picture))["pixel_values"][0])


def kosmos2_bytes(picture: Picture, side: int) -> Picture:
    """The same before rescaling and normalising."""
    processor = CLIPImageProcessorPil(
        size={"height": side, "width": side}, do_center_crop=False, do_rescale=False, do_normalize=False
    )
    return np.moveaxis(np.asarray(processor(Image.fromarray(picture))["pixel_values"][0]), 0, 2)


def clip_transform(picture: Picture, side: int) -> Picture:
    """open_clip's evaluation transform; with this mean and deviation its floats are exactly the bytes / 255."""
    floats = image_transform(side, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)(Image.fromarray(picture))
    return np.asarray(np.rint(floats.permute(1, 2, 0).numpy() * 255), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_squash_is_kosmos2s_processor(height: int, width: int) -> None:
    picture = noise(height, width)
    assert np.array_equal(resize(picture, 224, "squash"), kosmos2_bytes(picture, 224))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crop_is_open_clips_evaluation_transform(height: int, width: int) -> None:
    picture = noise(height, width)
    assert np.array_equal(resize(picture, 224, "crop"), clip_transform(picture, 224))


@given(height=st.integers(2, 150), width=st.integers(2, 150), side=st.integers(2, 64), seed=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_any_size_resizes_alike_to_any_side(height: int, width: int, side: int, seed: int) -> None:
    picture = noise(height, width, seed)
    assert np.array_equal(resize(picture, side, "squash"), kosmos2_bytes(picture, side))
    assert np.array_equal(resize(picture, side, "crop"), clip_transform(picture, side))


def test_photographs_resize_alike() -> None:
    for path in photographs():
        picture = open_image(path)
        assert np.array_equal(resize(picture, 224, "squash"), kosmos2_bytes(picture, 224)), path
        assert np.array_equal(resize(picture, 224, "crop"), clip_transform(picture, 224)), path


def test_normalised_squares_are_those_of_the_published_settings() -> None:
    picture = open_image(photographs()[0])
    square = resize(picture, 224, "squash").astype(np.float64) / 255
    expected = np.moveaxis((square - CLIP_MEAN) / CLIP_STD, 2, 0)
    np.testing.assert_allclose(kosmos2_processor(picture, 224), expected, rtol=0, atol=1e-6)


def test_results_are_whole_arrays_of_their_own() -> None:
    picture = noise(40, 60)
    rules: tuple[ResizeRule, ...] = ("squash", "crop")
    for rule in rules:
        square = resize(picture, 32, rule)
        assert square.shape == (32, 32, 3)
        assert square.dtype == np.uint8
        assert square.flags.c_contiguous
        assert square.flags.writeable


@pytest.mark.parametrize(
    ("picture", "side", "rule", "message"),
    [
        (noise(4, 4), 8, "stretch", "known rules: squash, crop"),
        (noise(4, 4), 0, "squash", "side=0"),
        (noise(4, 4)[..., 0], 8, "squash", r"\[4, 4\]"),
        (noise(4, 4).astype(np.float32), 8, "crop", "float32"),
        (noise(4, 4)[:0], 8, "crop", r"\[0, 4, 3\]"),
    ],
)
def test_wrong_arguments_are_named(picture: Picture, side: int, rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resize(picture, side, rule)  # type: ignore[arg-type]
