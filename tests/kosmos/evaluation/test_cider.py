"""CIDEr-D equals the published tool on its own numbers, item by item, and holds to the formula in small cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kosmos.evaluation.metrics.caption_cider import CaptionCiderD
from kosmos.evaluation.metrics.cider import CiderD, corpus_cider_d
from kosmos.evaluation.metrics.ptb import ptb_tokens

GOLDEN = ("coco_fakecap", "flickr8k_human", "edge_cases")


@pytest.mark.parametrize("name", GOLDEN)
def test_every_value_equals_the_published_tool(kosmos_data: Path, name: str) -> None:
    golden = json.loads((kosmos_data / "caption_metrics_golden" / f"{name}.json").read_text("utf-8"))
    candidates = [item["candidate_tok"].split() for item in golden["items"]]
    references = [[caption.split() for caption in item["references_tok"]] for item in golden["items"]]
    corpus, scores = corpus_cider_d(candidates, references)
    assert corpus == pytest.approx(golden["corpus"]["cider"], abs=1e-9)
    assert scores == pytest.approx([item["cider"] for item in golden["items"]], abs=1e-9)


@pytest.mark.parametrize("name", GOLDEN)
def test_raw_captions_become_the_published_tokens(kosmos_data: Path, name: str) -> None:
    golden = json.loads((kosmos_data / "caption_metrics_golden" / f"{name}.json").read_text("utf-8"))
    for item in golden["items"]:
        raw, tokens = [item["candidate"], *item["references"]], [item["candidate_tok"], *item["references_tok"]]
        assert [" ".join(ptb_tokens(caption)) for caption in raw] == tokens


def test_the_only_reference_itself_scores_ten() -> None:
    references = [[["a", "red", "bus", "on", "the", "road"]], [["two", "dogs", "play"]]]
    assert corpus_cider_d([["a", "red", "bus", "on", "the", "road"], ["two", "dogs", "play"]], references)[1][0] == 10.0


def test_ngrams_that_every_picture_has_count_nothing() -> None:
    assert corpus_cider_d([["a"], ["a"]], [[["a"]], [["a"]]])[0] == 0.0


def test_repeating_a_word_gains_nothing() -> None:
    references = [[["a", "cat", "sits", "on", "a", "mat"]], [["two", "dogs", "play"]]]
    metric = CiderD(references)
    assert metric.score(["cat", "cat", "cat", "cat"], 0) < metric.score(["cat"], 0)


def test_longer_than_the_reference_scores_less() -> None:
    metric = CiderD([[["a", "red", "bus"]], [["two", "dogs"]]])
    assert metric.score(["a", "red", "bus", "of", "old", "and", "far", "away", "lands"], 0) < metric.score(
        ["a", "red", "bus", "of", "old"], 0
    )


def test_an_empty_caption_scores_nothing() -> None:
    assert CiderD([[["a", "red", "bus"]], [["two", "dogs"]]]).score([], 0) == 0.0


def test_missing_references_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CiderD([[["a"]], []])
    with pytest.raises(ValueError, match="2 candidates for 1"):
        corpus_cider_d([["a"], ["b"]], [[["a"]]])


def test_as_a_reward_an_unfinished_sentence_scores_less() -> None:
    metric = CaptionCiderD([["A red bus."], ["Two dogs play."]], ends=True)
    assert metric.score("A red bus", 0) < metric.score("A red bus.", 0)
    plain = CaptionCiderD([["A red bus."], ["Two dogs play."]])
    assert plain.score("A red bus", 0) == plain.score("A red bus.", 0)
