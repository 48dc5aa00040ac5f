"""Processes that torchrun starts do together what one does alone: copies, shares of weights, shares of matrices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
WORKER = "tests.distributed.sharding_worker"
PAIRS = ("ddp", "fsdp", "fsdp-sparse", "fsdp-lora", "tensor", "tensor-again", "tensor-buckets")
FOURS = ("ddp-tensor", "fsdp-tensor", "hsdp")
FIGURES = ("losses", "norm", "gradients", "figures", "weights", "validated")


def _start(processes: int, out: Path) -> list[dict[str, Any]]:
    """Facts of every rank."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", str(processes), "--module", WORKER, str(out)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return _start(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return _start(4, tmp_path_factory.mktemp("four"))


def _equal(facts: list[dict[str, Any]], case: str) -> None:
    for rank, found in enumerate(facts):
        assert {name: found[case][name] for name in FIGURES if abs(found[case][name]) > 1e-5} == {}, f"rank {rank}"
        assert found[case]["moved"] > 1e-4, "the averaged weights must not be the last ones"


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRS)
def test_two_processes_take_the_steps_of_one(two: list[dict[str, Any]], case: str) -> None:
    _equal(two, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", FOURS)
def test_four_processes_on_a_mesh_take_the_steps_of_one(four: list[dict[str, Any]], case: str) -> None:
    _equal(four, case)


@pytest.mark.slow
def test_processes_that_split_matrices_share_a_batch(two: list[dict[str, Any]], four: list[dict[str, Any]]) -> None:
    assert [found["fsdp"]["rank"] for found in two] == [[0, 2], [1, 2]]
    assert [found["tensor"]["rank"] for found in two] == [[0, 1], [0, 1]]
    for case in ("ddp-tensor", "fsdp-tensor"):
        assert [found[case]["rank"] for found in four] == [[0, 2], [0, 2], [1, 2], [1, 2]]
        assert [found[case]["gathered"] for found in four] == [[0, 2], [1, 3], [0, 2], [1, 3]]


@pytest.mark.slow
def test_weights_are_shared_out_evenly(two: list[dict[str, Any]], four: list[dict[str, Any]]) -> None:
    assert two[0]["ddp"]["share"] == 1
    assert two[0]["fsdp"]["share"] == pytest.approx(1 / 2, abs=0.01)
    assert 1 / 2 < two[0]["tensor"]["share"] < 0.8
    assert four[0]["hsdp"]["share"] == pytest.approx(1 / 2, abs=0.01)
    assert four[0]["ddp-tensor"]["share"] == two[0]["tensor"]["share"]
    assert four[0]["fsdp-tensor"]["share"] == pytest.approx(two[0]["tensor"]["share"] / 2, abs=0.01)


@pytest.mark.slow
def test_weights_gathered_in_bfloat16_round_and_no_more(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert 0 < found["gpu"]["losses"] < 0.01
        assert 0 < found["gpu"]["gradients"] < 0.05


@pytest.mark.slow
def test_a_norm_over_a_split_axis_is_that_of_whole_rows(two: list[dict[str, Any]]) -> None:
    for found in two:
        norm = found["norm"]
        assert max(norm[name] for name in ("forward", "backward", "scale", "shift")) < 1e-5
        assert norm["without"] > 0.5, "rows on which local statistics would do prove nothing"


@pytest.mark.slow
def test_a_norm_without_its_reductions_gives_other_gradients(two: list[dict[str, Any]]) -> None:
    assert all(off > 1e-3 for found in two for off in found["unreduced"].values())
