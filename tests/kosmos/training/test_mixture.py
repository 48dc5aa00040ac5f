"""A batch follows from seed and step alone; words are asked for, pictures and prompts not; shares make the whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from kosmos.packed import Packed
from kosmos.training.features import Bytes
from kosmos.training.mixture import (
    CaptionSet,
    Layout,
    Mixture,
    caption_sequence,
    mirrored_words,
    packed,
    page_pieces,
)
from kosmos.training.recipe import MixtureRecipe

LAYOUT = Layout(begin=0, end=2, image=90, image_end=91, num_latents=4)
PICTURES, SHARD = 10, 5


def _encode(text: str) -> list[int]:
    """A word of n letters is the id 10 + n."""
    return [10 + len(word) for word in text.split()]


def _features(number: int) -> Bytes:
    return np.full((3, 2), number, dtype=np.uint8)


def _mixture(**shares: int) -> Mixture:
    views = [[np.stack([_features(10 * view + p) for p in range(s, s + SHARD)]) for s in (0, 5)] for view in range(2)]
    captions = CaptionSet([(f"a {'x' * (n + 1)}", "bb b") for n in range(PICTURES)], views)
    recipe = MixtureRecipe(
        **{"captions": 6, "caption_texts": 2, "book_chunks": 1, "chunk_length": 8, "views": 2} | shares
    )
    pages = page_pieces(LAYOUT, _encode, ["a bb", _features(7), "ccc " * 3], 16)
    return Mixture(
        recipe,
        LAYOUT,
        _encode,
        seed=3,
        captions=captions,
        caption_texts=["aa aaa", "b"],
        books=np.arange(20, 60, dtype=np.int32),
        pages=pages,
    )


def _same(one: Mapping[str, Packed], other: Mapping[str, Packed]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name].tokens, other[name].tokens) for name in one)


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    mixture = _mixture()
    later = mixture.batch(9)
    mixture.batch(2)
    assert _same(mixture.batch(9), later)
    assert _same(_mixture().batch(9), later)
    assert not _same(mixture.batch(8), later)


def test_a_batch_has_every_kind_the_mixture_names() -> None:
    mixture = _mixture()
    assert set(mixture.batch(0)) == set(mixture.kinds) == {"caption", "text", "interleaved"}


def test_the_shares_of_the_ranks_make_the_whole_batch() -> None:
    mixture = _mixture()
    whole = mixture.batch(4)["caption"]
    shares = [mixture.batch(4, rank, 2)["caption"] for rank in range(2)]
    assert sorted(whole.lengths) == sorted(length for share in shares for length in share.lengths)
    assert sum(int(share.loss_weight.sum()) for share in shares if share.loss_weight is not None) == int(
        whole.loss_weight.sum() if whole.loss_weight is not None else -1
    )


def test_an_epoch_shows_every_caption_once() -> None:
    mixture = _mixture(captions=5)
    turns = [mixture._turn("caption", len(mixture.pairs), 5, step) for step in range(8)]
    first, second = [sorted(index for turn in turns[part : part + 4] for index in turn) for part in (0, 4)]
    assert first == second == list(range(2 * PICTURES))
    assert turns[:4] != turns[4:]


def test_words_and_the_end_are_asked_for_and_the_picture_is_not() -> None:
    example = caption_sequence(LAYOUT, _encode, "A dog runs.", _features(0))
    assert example.ids == (0, 90, 90, 90, 90, 90, 91, 11, 13, 15, 2)
    assert example.asked == (False,) * 7 + (True,) * 4
    assert example.image_starts == (2,)


def test_a_prompt_is_not_asked_for_and_the_caption_goes_on_in_small_letters() -> None:
    def by_case(text: str) -> list[int]:
        return [50 if word[0].isupper() else 60 for word in text.split()]

    example = caption_sequence(LAYOUT, by_case, "A dog.", _features(0), "A photo of")
    assert example.ids[7:] == (50, 60, 60, 60, 60, 2)
    assert example.asked[7:] == (False, False, False, True, True, True)


def test_latents_lie_on_the_rows_of_their_own_picture() -> None:
    examples = [caption_sequence(LAYOUT, _encode, "a b", _features(n)) for n in range(2)]
    batch = packed(examples, LAYOUT.num_latents)
    assert batch.image_rows is not None
    assert batch.image_rows.tolist() == [[2, 3, 4, 5], [12, 13, 14, 15]]
    assert batch.tokens[batch.image_rows].unique().tolist() == [LAYOUT.image]


@pytest.mark.parametrize("length", [12, 16, 40])
def test_pieces_of_a_page_keep_pictures_whole_and_stay_short(length: int) -> None:
    parts: list[str | Bytes] = ["aa " * 20, _features(1), "bbb " * 30, _features(2), _features(3), "cc"]
    pieces = page_pieces(LAYOUT, _encode, parts, length)
    assert all(len(piece.ids) <= length and piece.ids[0] == LAYOUT.begin for piece in pieces)
    assert [int(stored[0, 0]) for piece in pieces for stored in piece.features] == [1, 2, 3]
    for piece in pieces:
        for start in piece.image_starts:
            rows = slice(start - 1, start + LAYOUT.num_latents + 1)
            assert piece.ids[rows] == tuple(LAYOUT.picture())
            assert not any(piece.asked[rows])


def test_in_a_mirror_left_is_right() -> None:
    assert mirrored_words("Left of the man, right and bright.") == "Right of the man, left and bright."
