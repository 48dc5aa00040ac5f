"""A state that two processes wrote is read by one and the other way round, bit for bit; a fault of one is told by both.

Run as a script under torchrun, this file is one of the two processes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from kosmos.training.recipe import SaveRecipe
from kosmos.training.run_folder import RunFolder

STEP = 10
PLAIN = {"stage": 0, "batches": {"caption": [1, 2, 3]}}
RECIPE = SaveRecipe(every=10)


def whole() -> dict[str, Tensor]:
    """What a run of one process keeps; rows do not divide by two, and a bias has one alone."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 1))
    weights = {f"weights.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    moments = {name.replace("weights", "optimiser.exp_avg"): torch.randn_like(one) for name, one in weights.items()}
    columns = {"weights.columns": torch.randn(4, 6), "weights.copied": torch.randn(6, 3)}
    return weights | moments | columns | {"optimiser.step": torch.tensor(9.0), "random": torch.get_rng_state()}


def shared() -> dict[str, Tensor]:
    """The same names as they lie on each of two processes: FSDP2's shards, tensor-parallel columns, HSDP, plain."""
    mesh, grid = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (2, 1), mesh_dim_names=("copies", "shards"))
    expected = whole()
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 1))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    found = {f"weights.{name}": parameter for name, parameter in model.named_parameters()}
    found |= {name.replace("weights", "optimiser.exp_avg"): torch.zeros_like(one) for name, one in found.items()}
    found["weights.columns"] = distribute_tensor(torch.zeros(4, 6), mesh, [Shard(1)])
    found["weights.copied"] = distribute_tensor(torch.zeros(6, 3), grid, [Replicate(), Shard(0)])
    assert all(isinstance(one, DTensor) for one in found.values())
    return found | {name: torch.zeros_like(one) for name, one in expected.items() if name not in found}


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in tensors.items()}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# ---- one of two processes ----


def work(folder: Path) -> dict[str, object]:
    """Read what one process wrote, write it again, then meet two faults."""
    told: dict[str, object] = {}
    tensors = shared()
    with closing(RunFolder(folder / "one", RECIPE)) as run:
        told["newest"] = run.newest()
        told["plain"] = run.load(STEP, tensors)
        told["equal"] = equal(gathered(tensors), whole())
        wrong = {**tensors, "weights.columns": torch.zeros(4, 7)}
        with pytest.raises(ValueError, match="1 tensors differ") as differs:
            run.load(STEP, wrong)
        told["differs"] = str(differs.value)
    with closing(RunFolder(folder / "two", RECIPE)) as run:
        run.save(STEP, tensors, PLAIN)
        run.wait()
        told["saved"] = run.newest()
        if dist.get_rank() == 1:  # the disk of one alone is full
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
        run.save(STEP + 10, tensors, PLAIN)
        with pytest.raises(OSError, match="could not be saved") as full:
            run.wait()
        told["full"] = str(full.value)
        if dist.get_rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        told["after"] = run.newest()
    return told


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    told = work(folder)
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


# ---- the test ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resharding")
    with closing(RunFolder(folder / "one", RECIPE)) as run:
        run.save(STEP, whole(), PLAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder


def told(folder: Path) -> list[dict[str, object]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_read_what_one_wrote(folder: Path) -> None:
    for one in told(folder):
        assert one["newest"] == STEP
        assert one["plain"] == PLAIN
        assert one["equal"] is True


@pytest.mark.slow
def test_one_process_reads_what_two_wrote(folder: Path) -> None:
    found = {name: torch.zeros_like(one) for name, one in whole().items()}
    shards = {
        path.name: path.stat().st_size for path in (folder / "two" / "step-000010" / "state").glob("*.safetensors")
    }
    assert len(shards) == 2, "each wrote its share"
    with closing(RunFolder(folder / "two", RECIPE)) as run:
        assert run.newest() == STEP
        assert run.load(STEP, found) == PLAIN
    assert equal(found, whole())


@pytest.mark.slow
def test_a_state_whose_parts_do_not_make_a_whole_is_refused(folder: Path) -> None:
    step = shutil.copytree(folder / "two" / "step-000010", folder / "half" / "step-000010")
    index = step / "state" / "index.json"
    shards = json.loads(index.read_text())["shards"]
    (step / "state" / min(shards)).unlink()
    index.write_text(json.dumps({"shards": {max(shards): shards[max(shards)]}}))
    with closing(RunFolder(folder / "half", RECIPE)) as run, pytest.raises(ValueError, match="tensors differ") as half:
        run.load(STEP, {name: torch.zeros_like(one) for name, one in whole().items()})
    assert "optimiser.exp_avg.0.bias is (5,) F32 in part, here (5,) F32" in str(half.value)


@pytest.mark.slow
def test_both_processes_say_which_tensors_differ(folder: Path) -> None:
    for one in told(folder):
        assert "weights.columns is (4, 6) F32, here (4, 7) F32" in str(one["differs"])


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_both_with_the_last_step_whole(folder: Path) -> None:
    for one in told(folder):
        assert "step 20 could not be saved (File too large" in str(one["full"])
        assert "step-000010 is whole" in str(one["full"])
        assert one["after"] == STEP
    assert [path.name for path in (folder / "two").iterdir() if path.name != ".lock"] == ["step-000010"]


if __name__ == "__main__":
    main()
