"""Views follow from picture, key and number; the cache is whole or absent, and a byte holds a feature closely."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from kosmos.training.builtin.features import (
    IMAGE_SIZE,
    Bytes,
    Eye,
    cached_features,
    features_of,
    picture_view,
    restored,
)


@pytest.fixture(scope="module")
def eye() -> Eye:
    """Weights drawn at random, biases that keep most features above zero."""
    torch.manual_seed(0)
    network = Eye().eval()
    for name, parameter in network.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.data = torch.randn_like(parameter) / fan_in**0.5 if parameter.ndim > 1 else parameter.data + 0.1
        assert torch.isfinite(parameter).all(), name
    return network


@pytest.fixture(scope="module")
def photo() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).save(written, "PNG")
    return written.getvalue()


def _as_picture(view: Bytes) -> Image.Image:
    return Image.fromarray(view.transpose(1, 2, 0))


def test_the_first_two_views_are_the_picture_and_its_mirror_image(photo: bytes) -> None:
    plain, mirrored = (picture_view(photo, view, key="a") for view in (0, 1))
    assert plain.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    assert np.array_equal(np.asarray(ImageOps.mirror(_as_picture(plain))), np.asarray(_as_picture(mirrored)))


def test_crops_follow_from_key_and_number_alone(photo: bytes) -> None:
    crops = [picture_view(photo, view, key=key) for view in (2, 3, 4) for key in ("a", "b")]
    assert np.array_equal(crops[0], picture_view(photo, 2, key="a"))
    assert len({crop.tobytes() for crop in crops}) == len(crops)


def test_a_byte_holds_a_feature_to_within_a_small_step(eye: Eye, photo: bytes) -> None:
    pixels = picture_view(photo, 0, key="a")
    with torch.inference_mode():
        exact = eye(torch.from_numpy(pixels)[None])
    stored = restored(features_of(eye, [pixels]))
    assert exact.std() > 0.01
    # Half a step of the square root: |d(x^2)| = 2 sqrt(6 x) * 0.5 / 255, plus the square of that half step.
    step = (6 * exact).sqrt() / 255 + 6 * (0.5 / 255) ** 2
    assert bool(((stored - exact).abs() <= step + 1e-5).all())


def test_features_are_computed_once_and_a_half_written_file_is_not_read(tmp_path: Path, eye: Eye, photo: bytes) -> None:
    asked = []

    def pictures() -> list[tuple[str, bytes]]:
        asked.append(1)
        return [("a", photo), ("b", photo)]

    (tmp_path / "shard-view00.999.part").write_bytes(b"half")
    first = cached_features(tmp_path, "shard", 0, eye=eye, pictures=pictures)
    again = cached_features(tmp_path, "shard", 0, eye=eye, pictures=pictures)
    assert len(asked) == 1
    assert first.shape[0] == 2
    assert np.array_equal(first, again)


def test_a_failure_leaves_no_file(tmp_path: Path, eye: Eye) -> None:
    with pytest.raises(OSError, match="identify"):
        cached_features(tmp_path, "shard", 0, eye=eye, pictures=lambda: [("a", b"no picture")])
    assert not list(tmp_path.glob("*.npy"))
