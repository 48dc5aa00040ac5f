"""Recipes hold the papers' numbers, and name models that there are."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from kosmos.presets import PRESETS
from kosmos.training.recipe import TrainRecipe
from kosmos.training.recipes import RECIPES, recipe

KOSMOS1, INSTRUCT = RECIPES["kosmos1"], RECIPES["kosmos1-instruct"]


def _tokens(of: TrainRecipe) -> dict[str, int]:
    data = of.data
    return {name: getattr(data, name).tokens for name in ("text", "caption", "interleaved", "instruction")}


def test_kosmos1_sees_the_papers_tokens_a_step_and_in_all() -> None:
    # Kosmos-1 (arXiv 2302.14045), section 3.2.
    tokens = _tokens(KOSMOS1)
    assert (tokens["text"], tokens["caption"], tokens["interleaved"]) == (500_000, 500_000, 200_000)
    mixture = tokens["text"] + tokens["caption"] + tokens["interleaved"]
    assert mixture * KOSMOS1.optimiser.steps == 360e9


def test_kosmos1_is_optimised_as_the_paper_says() -> None:
    optimiser = KOSMOS1.optimiser
    assert (optimiser.steps, optimiser.warmup_steps, optimiser.learning_rate) == (300_000, 375, 2e-4)
    assert (optimiser.schedule, optimiser.final_share) == ("linear", 0.0)
    assert (optimiser.betas, optimiser.weight_decay) == ((0.9, 0.98), 0.01)
    # Of the training script of Kosmos-2 (microsoft/unilm, kosmos-2/train.sh); the paper is silent.
    assert (optimiser.eps, optimiser.clip_norm) == (1e-6, 2.0)


def test_kosmos1_trains_all_but_the_eye_of_which_the_last_layer() -> None:
    assert (KOSMOS1.eye, KOSMOS1.tower, KOSMOS1.model) == ("last-layer", "openai", "kosmos1")
    assert KOSMOS1.lora.rank == KOSMOS1.experts.num == 0


def test_instructions_are_tuned_as_the_appendix_says() -> None:
    # Table 19: 10,000 steps, 375 of warm-up, 2e-5; sequences a batch: instruction 256, text 32, captions 768, pages 16.
    optimiser = INSTRUCT.optimiser
    assert (optimiser.steps, optimiser.warmup_steps, optimiser.learning_rate) == (10_000, 375, 2e-5)
    tokens = _tokens(INSTRUCT)
    assert (tokens["text"], tokens["interleaved"]) == (32 * 2048, 16 * 2048)
    assert tokens["instruction"] == 256 * 512
    assert tokens["caption"] // 768 > 64  # a picture's latents and some words
    assert INSTRUCT.model not in PRESETS  # it goes on from a trained model


@pytest.mark.parametrize("name", ["base", "kosmos1"])
def test_what_starts_anew_is_a_preset_that_fits_its_pieces(name: str) -> None:
    started = RECIPES[name]
    longest = max(getattr(started.data, kind).max_length for kind in ("text", "caption", "interleaved"))
    assert longest <= PRESETS[started.model].decoder.max_length


def test_fine_tuning_starts_from_the_published_checkpoint_with_a_small_rate() -> None:
    tuned = RECIPES["kosmos2-finetune"]
    assert tuned.model == "microsoft/kosmos-2-patch14-224"
    assert tuned.optimiser.learning_rate == 1e-5  # Kosmos-2 (arXiv 2306.14824), table 8
    assert tuned.data.streams == {}  # one's own


def test_every_recipe_is_found_by_its_name_and_cannot_be_changed_in_place() -> None:
    for name, entry in RECIPES.items():
        assert recipe(name) is entry
        assert entry.name == name
        with pytest.raises(FrozenInstanceError):
            entry.seed = 1  # type: ignore[misc]


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'kosmos3'; known recipes: base, kosmos1, "):
        recipe("kosmos3")


def test_kinds_without_shards_are_left_out_of_a_step() -> None:
    data = RECIPES["base"].data
    with_pages = replace(data, interleaved=replace(data.interleaved, shards=("pages/",)))
    assert list(with_pages.streams) == ["interleaved"]
