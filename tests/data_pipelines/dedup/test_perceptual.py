"""Perceptual hashes tell copies of a picture from others, and the index finds all that a search of all would."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from data_pipelines.dedup.perceptual import CONFIRM_BITS, PictureHash, PictureIndex, picture_hash
from data_pipelines.glance import reduced
from tests.data_pipelines.written import encode, noise, photographs

DISTANCE = 10


def hash_of(picture: Pillow.Image, quality: int = 90, kind: str = "JPEG") -> PictureHash:
    found = picture_hash(reduced(encode(picture, kind, quality)))
    assert found is not None
    return found


def alike(first: PictureHash, second: PictureHash) -> bool:
    index = PictureIndex(DISTANCE)
    index.add(1, first)
    return bool(index.find(second))


def trimmed(picture: Pillow.Image, share: float) -> Pillow.Image:
    width, height = picture.size
    return picture.crop((int(width * share), int(height * share), width - int(width * share), height))


COPIES: dict[str, Callable[[Pillow.Image], PictureHash]] = {
    "compressed again": lambda picture: hash_of(picture, quality=25),
    "another format": lambda picture: hash_of(picture, kind="PNG"),
    "a third of the size": lambda picture: hash_of(picture.resize((picture.width // 3, picture.height // 3))),
    "enlarged": lambda picture: hash_of(picture.resize((picture.width * 2, picture.height * 2))),
    "squeezed to a square": lambda picture: hash_of(picture.resize((224, 224))),
    "brighter": lambda picture: hash_of(picture.point(lambda level: min(255, int(level * 1.1) + 5))),
    "trimmed by a fiftieth": lambda picture: hash_of(trimmed(picture, 0.02)),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_changed_copy_of_a_photograph_is_found(change: str) -> None:
    missed = [name for name, one in photographs().items() if not alike(hash_of(one), COPIES[change](one))]
    assert missed == []


def test_other_photographs_are_not_alike() -> None:
    hashes = {name: hash_of(one) for name, one in photographs().items()}
    hashes |= {str(seed): hash_of(noise(seed)) for seed in range(60)}
    assert [pair for pair in combinations(hashes, 2) if alike(hashes[pair[0]], hashes[pair[1]])] == []


def test_pictures_without_features_have_no_hash() -> None:
    assert picture_hash(np.full((64, 64, 3), 200, dtype=np.uint8)) is None


@given(
    stored=st.lists(st.integers(0, 2**64 - 1), max_size=20),
    distance=st.integers(0, 15),
    draw=st.randoms(use_true_random=False),
)
def test_the_index_finds_what_a_search_of_all_finds(stored: list[int], distance: int, draw: object) -> None:
    index = PictureIndex(distance)
    hashes = [PictureHash(find, find) for find in stored]
    for owner, one in enumerate(hashes):
        index.add(owner, one)
    base = stored[0] if stored else 0
    flipped = draw.sample(range(64), draw.randint(0, 17))  # type: ignore[attr-defined]
    wanted = base ^ sum(1 << bit for bit in flipped)
    apart = [(one.find ^ wanted).bit_count() for one in hashes]
    expected = {owner: bits for owner, bits in enumerate(apart) if bits <= min(distance, CONFIRM_BITS)}
    assert index.find(PictureHash(wanted, wanted)) == expected


def test_the_second_hash_has_to_agree() -> None:
    index = PictureIndex(DISTANCE)
    index.add(7, PictureHash(5, 0))
    assert index.find(PictureHash(5, 2**CONFIRM_BITS - 1)) == {7: 0}
    assert index.find(PictureHash(5, 2 ** (CONFIRM_BITS + 1) - 1)) == {}


@pytest.mark.slow
def test_real_photographs_hold_one_pair_of_copies(kosmos_data) -> None:  # type: ignore[no-untyped-def]
    from data_pipelines.shard import open_shard

    index, pairs = PictureIndex(DISTANCE), []
    for name in ("train-000000", "train-000001"):
        with open_shard(str(kosmos_data / "flickr8k" / f"{name}.tar")) as shard:
            for sample in shard:
                found = picture_hash(reduced(sample.parts["jpg"]))
                assert found is not None
                number = int(sample.key.removeprefix("train"))
                pairs += [(original, number, bits) for original, bits in index.find(found).items()]
                index.add(number, found)
    assert pairs == [(219, 384, 0)]
