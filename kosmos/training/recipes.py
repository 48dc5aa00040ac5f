"""Named recipes of `kosmos train`, each with its source; `tiny` has its own in `builtin/recipe.py`. No torch here."""

from __future__ import annotations

from dataclasses import replace

from kosmos.training.recipe import (
    ComputeRecipe,
    DataRecipe,
    OptimiserRecipe,
    ParallelRecipe,
    SaveRecipe,
    ShowRecipe,
    StreamRecipe,
    TrainRecipe,
)

__all__ = ["RECIPES", "recipe"]

# Kosmos-1 (arXiv 2302.14045), section 3.2: 0.5M + 0.5M + 0.2M tokens a step, 300k steps, 2e-4 after 375 steps, down to
# 0 in a straight line, betas (0.9, 0.98), decay 0.01. The paper gives neither eps nor a clip; these are of the released
# training script of Kosmos-2.
_KOSMOS1 = TrainRecipe(
    name="kosmos1",
    model="kosmos1",
    tower="openai",
    optimiser=OptimiserRecipe(
        steps=300_000,
        learning_rate=2e-4,
        warmup_steps=375,
        schedule="linear",
        final_share=0.0,
        weight_decay=0.01,
        label_smoothing=0.0,
        average_decay=0.0,
        spike_factor=10.0,
    ),
    data=DataRecipe(
        text=StreamRecipe(tokens=500_000),
        caption=StreamRecipe(tokens=500_000),
        interleaved=StreamRecipe(tokens=200_000),
        workers=4,
    ),
    parallel=ParallelRecipe(sharding="fsdp"),
    compute=ComputeRecipe(precision="bfloat16", checkpointing="selective", compile=True),
    save=SaveRecipe(every=1000, keep=3, keep_every=10_000),
    show=ShowRecipe(validate_every=1000),
)

# The same at a third of a billion, for one machine; nobody's paper.
_BASE = replace(
    _KOSMOS1,
    name="base",
    model="base",
    optimiser=replace(_KOSMOS1.optimiser, steps=50_000, learning_rate=5e-4),
    data=replace(
        _KOSMOS1.data,
        text=StreamRecipe(tokens=65_536),
        caption=StreamRecipe(tokens=65_536),
        interleaved=StreamRecipe(tokens=32_768),
    ),
    parallel=ParallelRecipe(),
    compute=ComputeRecipe(),
)

# Section 3.3 and table 19 (its numbers could not be checked): language instructions beside the pre-training corpora.
_KOSMOS1_INSTRUCT = replace(
    _KOSMOS1,
    name="kosmos1-instruct",
    model="runs/kosmos1",
    tower="",
    optimiser=replace(_KOSMOS1.optimiser, steps=10_000, learning_rate=2e-5),
    data=replace(
        _KOSMOS1.data,
        instruction=StreamRecipe(tokens=131_072),
        text=StreamRecipe(tokens=65_536),
        caption=StreamRecipe(tokens=65_536),
        interleaved=StreamRecipe(tokens=32_768),
    ),
)

# A published or converted checkpoint and one's own pictures; small enough for one device.
_KOSMOS2_FINETUNE = TrainRecipe(
    name="kosmos2-finetune",
    model="microsoft/kosmos-2-patch14-224",
    optimiser=OptimiserRecipe(
        steps=1000,
        learning_rate=1e-5,
        warmup_steps=50,
        schedule="linear",
        final_share=0.0,
        weight_decay=0.01,
        label_smoothing=0.0,
        average_decay=0.0,
    ),
    data=DataRecipe(
        caption=StreamRecipe(tokens=4096), instruction=StreamRecipe(tokens=4096), interleaved=StreamRecipe(tokens=4096)
    ),
    save=SaveRecipe(every=200),
    show=ShowRecipe(validate_every=200),
)

RECIPES = {entry.name: entry for entry in (_BASE, _KOSMOS1, _KOSMOS1_INSTRUCT, _KOSMOS2_FINETUNE)}


def recipe(name: str) -> TrainRecipe:
    """The recipe of that name.

    Raises: ValueError that lists the known names.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known recipes: {', '.join(RECIPES)}")
    return RECIPES[name]
