"""MinHash estimates the share of words in common, and the index finds every pair above its similarity."""

from __future__ import annotations

import random

import numpy as np
import pytest

from data_pipelines.dedup.minhash import NUM_HASHES, SHINGLE_WORDS, TextIndex, rows_of_band, text_signature


def text(seed: int, count: int = 300) -> list[str]:
    draw = random.Random(seed)
    return [f"word{draw.randrange(5_000)}" for _ in range(count)]


def edited(words: list[str], changes: int, seed: int = 0) -> list[str]:
    copy, draw = list(words), random.Random(seed)
    for place in draw.sample(range(len(copy)), changes):
        copy[place] = "edited"
    return copy


def jaccard(first: list[str], second: list[str]) -> float:
    one, two = (
        {tuple(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1)}
        for words in (first, second)
    )
    return len(one & two) / len(one | two)


@pytest.mark.parametrize("changes", [0, 3, 10, 30, 100])
def test_signatures_agree_as_often_as_texts_share_runs_of_words(changes: int) -> None:
    first, second = text(1), edited(text(1), changes)
    shared = float((text_signature(first) == text_signature(second)).mean())
    assert shared == pytest.approx(jaccard(first, second), abs=0.12)  # three standard errors of 128 hashes


def test_a_signature_is_the_same_in_every_process() -> None:
    # Written down once: it may change with a new `rensa`, and then old and new signatures must not be mixed.
    assert text_signature(["the", "dog", "runs", "over", "the", "grass"])[:2].tolist() == [3294615661, 4192824455]


def test_edited_texts_are_found_and_other_texts_are_not() -> None:
    originals = [text(seed) for seed in range(50)]
    copies = [edited(words, 4, seed) for seed, words in enumerate(originals)]
    strangers = [text(seed) for seed in range(1_000, 1_050)]
    signatures = np.stack([text_signature(words) for words in (*originals, *copies, *strangers)])
    index = TextIndex(signatures, 0.75)
    for document in range(50):
        assert index.original(document) is None
        index.keep(document)
    found = [index.original(document) for document in range(50, 150)]
    assert [match.document for match in found[:50] if match] == list(range(50))
    assert found[50:] == [None] * 50


def test_a_text_below_the_similarity_is_another_text() -> None:
    signatures = np.stack([text_signature(words) for words in (text(1), edited(text(1), 20))])
    index = TextIndex(signatures, 0.75)
    index.keep(0)
    assert index.original(1) is None
    loose = TextIndex(signatures, 0.4)
    loose.keep(0)
    assert loose.original(1) is not None


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.75, 0.9, 1.0])
def test_bands_find_99_of_100_pairs_of_exactly_this_similarity(similarity: float) -> None:
    rows = rows_of_band(similarity)
    assert 1 - (1 - similarity**rows) ** (NUM_HASHES // rows) >= 0.99 or rows == 1


def test_no_texts_at_all_are_no_trouble() -> None:
    TextIndex(np.empty((0, NUM_HASHES), dtype=np.uint32), 0.75)
