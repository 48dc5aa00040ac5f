"""A digest sees words and pictures in their order, and nothing else."""

from __future__ import annotations

import pytest

from data_pipelines.dedup.exact import document_digest
from tests.data_pipelines.written import document, encode, noise
from text.document import Document

ONE, TWO = encode(noise(1)), encode(noise(2))


@pytest.mark.parametrize(
    "same",
    [
        document("a DOG, runs!", ONE, "away", source="elsewhere"),
        document("A", "dog  runs", ONE, "away."),
        document("a ｄog runs", ONE, "away"),
    ],
)
def test_case_punctuation_width_segments_and_meta_do_not_count(same: Document) -> None:
    assert document_digest(same) == document_digest(document("A dog runs", ONE, "away"))


@pytest.mark.parametrize(
    "other",
    [
        document("A dog runs", "away", ONE),
        document("A dog runs", TWO, "away"),
        document("A dog runs", ONE, ONE, "away"),
        document("A dog run saway", ONE),
        document("A dog runs", ONE, "away", ONE),
    ],
)
def test_other_words_pictures_or_order_give_another_digest(other: Document) -> None:
    assert document_digest(other) != document_digest(document("A dog runs", ONE, "away"))
