"""A run folder from shards: it learns, opens as it is, goes on exactly after any end, and says what does not fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kosmos
from data_pipelines.shard import ShardWriter
from kosmos.training.learner import Diverged
from kosmos.training.recipe import ExpertsRecipe, LoraRecipe, StreamRecipe, TrainRecipe
from kosmos.training.run import STOPPED, train_kosmos
from tests.kosmos.training.small_run import logged_figures, small_recipe, write_base, write_recipe_file
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer


@pytest.fixture
def recipe(tmp_path: Path, small_tokenizer: Tokenizer) -> TrainRecipe:
    """Twelve steps from a random checkpoint."""
    return small_recipe(tmp_path, write_base(tmp_path / "base", small_tokenizer))


def _in_a_process(recipe: TrainRecipe, run: Path, *ending: str) -> subprocess.CompletedProcess[str]:
    path = write_recipe_file(recipe, run.with_suffix(".json"))
    return subprocess.run(
        [sys.executable, "-m", "tests.kosmos.training.small_run", str(path), str(run), *ending],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_run_learns_and_its_folder_opens_as_it_is(tmp_path: Path, recipe: TrainRecipe) -> None:
    last = train_kosmos(recipe, tmp_path / "run")
    lines = logged_figures(tmp_path / "run")
    assert last.name == "step-000012"
    assert float(str(lines[-1]["validation_loss"])) < float(str(lines[5]["validation_loss"]))
    assert {"caption", "text", "gradient_norm", "learning_rate"} <= set(lines[0])
    assert {"validation_pictures", "validation_text", "samples"} <= set(lines[-1])
    opened = kosmos.load(tmp_path / "run", dtype="float32")
    assert opened.generate(["the 3 dogs"], max_new_tokens=3)[0].ids
    assert (tmp_path / "run" / "curves.html").exists()


def test_checkpoints_hold_the_averaged_weights_and_are_kept_as_asked(tmp_path: Path, recipe: TrainRecipe) -> None:
    train_kosmos(recipe, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").glob("step-*")) == ["step-000008", "step-000012"]
    base = kosmos.load(tmp_path / "base", dtype="float32").network.state_dict()
    found = kosmos.load(tmp_path / "run", dtype="float32").network.state_dict()
    frozen = "tower.visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert torch.equal(base[frozen], found[frozen])
    assert not torch.equal(base["decoder.embedding.weight"], found["decoder.embedding.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("step", ["1", "5", "8", "11"])
def test_a_run_killed_at_any_step_goes_on_to_the_same_losses(tmp_path: Path, recipe: TrainRecipe, step: str) -> None:
    train_kosmos(recipe, tmp_path / "unbroken")
    killed = _in_a_process(recipe, tmp_path / "killed", "SIGKILL", step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = _in_a_process(recipe, tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert logged_figures(tmp_path / "killed") == logged_figures(tmp_path / "unbroken")


@pytest.mark.slow
def test_sigterm_saves_the_step_and_leaves_with_the_code_schedulers_know(tmp_path: Path, recipe: TrainRecipe) -> None:
    ended = _in_a_process(recipe, tmp_path / "run", "SIGTERM", "5")
    assert ended.returncode == STOPPED == 143, ended.stderr
    assert json.loads((tmp_path / "run" / "step-000005" / "state.json").read_text())["step"] == 5
    assert train_kosmos(recipe, tmp_path / "run").name == "step-000012"


def test_adapters_train_alone_and_steps_open_without_them(tmp_path: Path, recipe: TrainRecipe) -> None:
    lora = replace(recipe, lora=LoraRecipe(rank=2), optimiser=replace(recipe.optimiser, learning_rate=1e-2))
    last = train_kosmos(lora, tmp_path / "run")
    assert (last / "adapter" / "adapter_model.safetensors").exists()
    base = kosmos.load(tmp_path / "base", dtype="float32").network.state_dict()
    found = kosmos.load(tmp_path / "run", dtype="float32").network.state_dict()
    assert torch.equal(base["decoder.embedding.weight"], found["decoder.embedding.weight"])
    query = "decoder.blocks.0.attention.q_proj.weight"
    assert not torch.equal(base[query], found[query])


def test_one_flag_makes_a_sparse_variant_whose_balance_is_logged(tmp_path: Path, recipe: TrainRecipe) -> None:
    train_kosmos(replace(recipe, experts=ExpertsRecipe(num=4)), tmp_path / "run")
    lines = logged_figures(tmp_path / "run")
    assert 0.5 < float(str(lines[0]["balance"])) < 4
    assert "experts_entropy" in lines[-1]
    assert kosmos.load(tmp_path / "run").network.config.decoder.experts is not None


def test_a_folder_of_another_run_is_refused_with_what_differs(tmp_path: Path, recipe: TrainRecipe) -> None:
    short = replace(recipe, optimiser=replace(recipe.optimiser, steps=1))
    train_kosmos(short, tmp_path / "run")
    with pytest.raises(ValueError, match=r"another run: optimiser\.learning_rate 0\.003 there, 0\.1 here"):
        train_kosmos(replace(short, optimiser=replace(short.optimiser, learning_rate=0.1)), tmp_path / "run")


def test_devices_that_cannot_share_the_batches_are_refused(tmp_path: Path, recipe: TrainRecipe) -> None:
    long = replace(recipe.data, text=StreamRecipe(shards=recipe.data.text.shards, tokens=100, max_length=64))
    with pytest.raises(ValueError, match="100 tokens in 2 batches leave 50 each"):
        train_kosmos(replace(recipe, data=long), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_missing_shard_is_named_before_training(tmp_path: Path, recipe: TrainRecipe) -> None:
    gone = replace(recipe.data, text=replace(recipe.data.text, shards=(str(tmp_path / "nowhere"),)))
    with pytest.raises((OSError, ValueError), match="nowhere"):
        train_kosmos(replace(recipe, data=gone), tmp_path / "run")


def test_what_cannot_fit_is_said_before_it_is_built(tmp_path: Path, recipe: TrainRecipe) -> None:
    huge = replace(
        recipe,
        model="kosmos1",
        tokenizer="none",
        data=replace(recipe.data, text=StreamRecipe(shards=recipe.data.text.shards, tokens=1 << 26, max_length=2048)),
    )
    with pytest.raises(ValueError, match=r"kosmos1 needs .* GB on each device"):
        train_kosmos(huge, tmp_path / "run")


def _short(recipe: TrainRecipe, *validation: Path, steps: int = 1) -> TrainRecipe:
    return replace(
        recipe,
        optimiser=replace(recipe.optimiser, steps=steps),
        show=replace(recipe.show, validation=tuple(map(str, validation))),
    )


def test_held_out_books_are_shown_by_their_beginning(tmp_path: Path, recipe: TrainRecipe) -> None:
    book = " ".join(f"the {number} dogs ran over hills" for number in range(2000))
    with ShardWriter(tmp_path / "books" / "books-000000.tar") as writer:
        writer.write("000000", Document((Text(book),)))
        writer.write("000001", Document((Text(book, loss=False), Text("so it ends"))))  # no room to go on
    train_kosmos(_short(recipe, tmp_path / "books"), tmp_path / "run")
    samples = logged_figures(tmp_path / "run")[-1]["samples"]
    assert isinstance(samples, dict)
    assert list(samples) == ["sample 1"]
    assert "the 5 dogs" in samples["sample 1"]
    assert "the 100 dogs" not in samples["sample 1"]


def test_a_held_out_picture_that_does_not_open_is_left_out(
    tmp_path: Path, recipe: TrainRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    with ShardWriter(tmp_path / "held" / "held-000000.tar") as writer:
        writer.write("000000", Document((Image(b"\x89PNG\r\n\x1a\n and no more"), Text("a wall"))))
        writer.write("000001", Document((Text("the 3 dogs ran"),)))
    train_kosmos(_short(recipe, tmp_path / "held"), tmp_path / "run")
    assert "left out a held-out document" in caplog.text
    assert list(logged_figures(tmp_path / "run")[-1]["samples"]) == ["sample 1"]  # type: ignore[call-overload]


def test_use_of_experts_is_logged_without_held_out_documents(tmp_path: Path, recipe: TrainRecipe) -> None:
    train_kosmos(replace(_short(recipe), experts=ExpertsRecipe(num=4)), tmp_path / "run")
    assert 0 <= float(str(logged_figures(tmp_path / "run")[-1]["experts_entropy"])) <= 1


@pytest.mark.parametrize("content", [None, "{half", '{"recipe": {"steps": 3}}'])
def test_a_folder_that_holds_something_else_is_no_run(tmp_path: Path, recipe: TrainRecipe, content: str | None) -> None:
    folder = tmp_path / "base"  # a checkpoint, whose config.json is its own
    if content is not None:
        (folder / "config.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match="not the recipe of a run of this kind; --run takes a new folder"):
        train_kosmos(replace(recipe, model="nothing"), folder)


def test_an_adapter_is_a_model_to_begin_from(tmp_path: Path, recipe: TrainRecipe) -> None:
    last = train_kosmos(replace(_short(recipe), lora=LoraRecipe(rank=2)), tmp_path / "adapted")
    assert train_kosmos(replace(_short(recipe), model=str(last / "adapter")), tmp_path / "run").name == "step-000001"


def test_words_beside_a_checkpoint_that_has_its_own_are_refused(tmp_path: Path, recipe: TrainRecipe) -> None:
    with pytest.raises(ValueError, match="has words of its own; leave out --tokenizer"):
        train_kosmos(replace(recipe, tokenizer="words.model"), tmp_path / "run")


def test_curves_that_cannot_be_drawn_do_not_end_a_run_in_error(
    tmp_path: Path, recipe: TrainRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run" / "curves.html").mkdir(parents=True)  # where the page should stand
    assert train_kosmos(_short(recipe), tmp_path / "run").name == "step-000001"
    assert "curves.html could not be drawn" in caplog.text


def test_any_seed_is_taken(tmp_path: Path, recipe: TrainRecipe) -> None:
    assert train_kosmos(replace(_short(recipe), seed=(1 << 63) - 1), tmp_path / "run").name == "step-000001"


def test_steps_that_are_passed_over_push_out_no_older_checkpoint(tmp_path: Path, recipe: TrainRecipe) -> None:
    breaks = replace(recipe.optimiser, learning_rate=1e30, warmup_steps=0, max_skipped=5)  # from the second step on
    saved = replace(recipe.save, every=1, keep=2)
    with pytest.raises(Diverged, match="remove this run's newest steps"):
        train_kosmos(replace(_short(recipe), optimiser=breaks, save=saved), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-000001"]


def test_a_run_goes_on_from_the_step_it_began_from_when_its_base_has_newer_ones(
    tmp_path: Path, recipe: TrainRecipe
) -> None:
    first = train_kosmos(_short(recipe), tmp_path / "first")
    lora = replace(_short(recipe, steps=2), model=str(tmp_path / "first"), lora=LoraRecipe(rank=2))
    train_kosmos(lora, tmp_path / "run")
    shutil.copytree(first, first.with_name("step-000002"))
    train_kosmos(lora, tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))["recipe"]
    assert kept["model"] == str(first.resolve())
