"""Runs under torchrun: killed on two processes and resumed on one, they see the same documents in the same order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import kosmos
from kosmos.training.recipe import ParallelRecipe, TrainRecipe
from kosmos.training.run import STOPPED, train_kosmos
from tests.kosmos.training.small_run import logged_figures, small_recipe, write_base, write_recipe_file
from text.tokenizer import Tokenizer

LOSSES = ("caption", "text", "gradient_norm")


@pytest.fixture
def recipe(tmp_path: Path, small_tokenizer: Tokenizer) -> TrainRecipe:
    """Twelve steps of two batches each."""
    return small_recipe(tmp_path, write_base(tmp_path / "base", small_tokenizer))


def _on_two(recipe: TrainRecipe, run: Path, *ending: str) -> subprocess.CompletedProcess[str]:
    path = write_recipe_file(recipe, run.with_suffix(".json"))
    script = Path(__file__).parents[1] / "kosmos" / "training" / "small_run.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [*torchrun, str(script), str(path), str(run), *ending],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo"},
    )


def _losses(run: Path) -> list[list[float]]:
    return [[float(str(line[name])) for name in LOSSES] for line in logged_figures(run)]


@pytest.mark.slow
def test_a_run_killed_on_two_processes_goes_on_on_one(tmp_path: Path, recipe: TrainRecipe) -> None:
    train_kosmos(recipe, tmp_path / "unbroken")
    killed = _on_two(recipe, tmp_path / "killed", "SIGKILL", "6")
    assert killed.returncode != 0
    assert max(int(str(line["step"])) for line in logged_figures(tmp_path / "killed")) < 12, killed.stderr
    train_kosmos(recipe, tmp_path / "killed")
    one, two = _losses(tmp_path / "unbroken"), _losses(tmp_path / "killed")
    assert len(one) == len(two) == 12
    for expected, found in zip(one, two, strict=True):
        # Sums are added in another order; another document would change the first digits.
        assert found == pytest.approx(expected, rel=2e-4)


@pytest.mark.slow
def test_weights_shared_out_over_two_processes_train_to_the_same_losses(tmp_path: Path, recipe: TrainRecipe) -> None:
    train_kosmos(recipe, tmp_path / "alone")
    shared = replace(recipe, parallel=ParallelRecipe(sharding="fsdp"))
    done = _on_two(shared, tmp_path / "fsdp")
    assert done.returncode == 0, done.stderr
    for expected, found in zip(_losses(tmp_path / "alone"), _losses(tmp_path / "fsdp"), strict=True):
        assert found == pytest.approx(expected, rel=2e-4)
    assert kosmos.load(tmp_path / "fsdp").generate(["the 3 dogs"], max_new_tokens=2)[0].ids


@pytest.mark.slow
def test_matrices_shared_by_two_processes_train_to_the_same_losses(tmp_path: Path, recipe: TrainRecipe) -> None:
    train_kosmos(recipe, tmp_path / "alone")
    split = replace(recipe, parallel=ParallelRecipe(tensor_parallel=2))
    done = _on_two(split, tmp_path / "tensor")
    assert done.returncode == 0, done.stderr
    for expected, found in zip(_losses(tmp_path / "alone"), _losses(tmp_path / "tensor"), strict=True):
        assert found == pytest.approx(expected, rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("tensor_parallel", [1, 2])  # 2: both read the same rows, and still only one was asked
def test_one_process_asked_to_stop_makes_all_save_and_leave(
    tmp_path: Path, recipe: TrainRecipe, tensor_parallel: int
) -> None:
    parallel = ParallelRecipe(tensor_parallel=tensor_parallel)
    ended = _on_two(replace(recipe, parallel=parallel), tmp_path / "run", "SIGTERM", "5")
    assert str(STOPPED) in ended.stderr
    assert ended.returncode != 0
    assert (tmp_path / "run" / "step-000005" / "state.json").exists()
    assert signal.SIGTERM == STOPPED - 128
