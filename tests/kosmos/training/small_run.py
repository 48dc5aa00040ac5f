"""A run small enough for tests: a random Kosmos, shards of drawn pictures and sentences, a recipe of a few steps.

As a script it is one process of that run, alone or under torchrun: RECIPE.json FOLDER [SIGNAL STEP].
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from data_pipelines.shard import ShardWriter
from kosmos.config import KosmosConfig
from kosmos.training.recipe import (
    ComputeRecipe,
    DataRecipe,
    OptimiserRecipe,
    SaveRecipe,
    ShowRecipe,
    StreamRecipe,
    TrainRecipe,
)
from tests.models import small_kosmos
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer

__all__ = ["COLOURS", "logged_figures", "small_recipe", "write_base", "write_recipe_file"]

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (250, 250, 250)}
MEASURED = ("seconds", "tokens_per_s", "images_per_s", "mfu", "seconds_per_step")


def write_base(folder: Path, tokenizer: Tokenizer) -> Path:
    """A checkpoint to begin from, without dropout, so that a step does not depend on who computes it."""
    kosmos = small_kosmos(tokenizer, sharpness=1.0)
    decoder = replace(kosmos.network.config.decoder, dropout=0.0, attention_dropout=0.0)
    config = replace(kosmos.network.config, decoder=decoder)
    _without_dropout(kosmos.network.config, config)
    kosmos.network.config = config
    kosmos.save(folder)
    return folder


def _without_dropout(before: KosmosConfig, after: KosmosConfig) -> None:
    assert replace(after, decoder=before.decoder) == before


def small_recipe(folder: Path, base: Path, **fields: object) -> TrainRecipe:
    """Twelve steps on captions and words of `folder`, made where they are missing."""
    captions, words = folder / "captions", folder / "words"
    if not captions.exists():
        _write_shards(captions, words)
    recipe = TrainRecipe(
        name="small",
        model=str(base),
        optimiser=OptimiserRecipe(
            steps=12, learning_rate=3e-3, warmup_steps=2, label_smoothing=0.0, average_decay=0.9, weight_decay=0.0
        ),
        data=DataRecipe(
            caption=StreamRecipe(shards=(str(captions),), tokens=128, max_length=64),
            text=StreamRecipe(shards=(str(words),), tokens=128, max_length=64),
            workers=0,
            look_ahead=2,
        ),
        compute=ComputeRecipe(precision="float32", micro_batches=2),
        save=SaveRecipe(every=4, keep=2, dtype="float32"),
        show=ShowRecipe(
            log_every=1,
            validate_every=6,
            validation=(str(captions), str(words)),
            validation_documents=8,
            samples=2,
            sample_tokens=4,
            trackers=(),
        ),
    )
    return replace(recipe, **fields)  # type: ignore[arg-type]


def write_recipe_file(recipe: TrainRecipe, path: Path) -> Path:
    """For the script."""
    path.write_text(json.dumps({"recipe": asdict(recipe)}), "utf-8")
    return path


def logged_figures(run: Path) -> list[dict[str, object]]:
    """The log without times."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def _write_shards(captions: Path, words: Path) -> None:
    draw = np.random.default_rng(0)
    for shard in range(2):
        with ShardWriter(captions / f"captions-{shard:06d}.tar") as writer:
            for number in range(20):
                name = list(COLOURS)[number % len(COLOURS)]
                noise = draw.integers(-20, 20, (32, 32, 3))
                pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
                written = io.BytesIO()
                Picture.fromarray(pixels).save(written, "PNG")
                document = Document((Image(written.getvalue()), Text(f"a {name} wall")))
                writer.write(f"{shard:02d}{number:04d}", document)
    with ShardWriter(words / "words-000000.tar") as writer:
        for number in range(60):
            writer.write(f"{number:06d}", Document((Text(f"the {number} dogs ran over {number + 1} hills"),)))


def _main(recipe_path: str, folder: str, sent: str = "", step: str = "0") -> None:
    from kosmos.cli.recipe_file import read_recipe
    from kosmos.training.recipes import recipe
    from kosmos.training.run import train_kosmos

    def progress(stage: str, done: int, steps: int, figures: Mapping[str, float]) -> None:
        if done == int(step):
            os.kill(os.getpid(), getattr(signal, sent))

    train_kosmos(read_recipe(Path(recipe_path), recipe("base")), Path(folder), progress=progress)


if __name__ == "__main__":
    _main(*sys.argv[1:])
