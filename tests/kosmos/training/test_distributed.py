"""Two ranks do what one does."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from kosmos.training.batches import NoBatches
from kosmos.training.distributed import Launch, joined, launch, run_ranks
from kosmos.training.learner import Learner
from kosmos.training.loop import Run, Stage, train
from kosmos.training.objective import Sum
from kosmos.training.parallel import Parallel
from kosmos.training.recipe import OptimiserRecipe, SaveRecipe
from kosmos.training.run_folder import RunFolder
from kosmos.training.run_log import RunLog


def _work(folder: Path, rank: int, ranks: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def losses(step: int) -> dict[str, Sum]:
        draw = torch.Generator().manual_seed(step)
        inputs = torch.randn(9, 4, generator=draw)[rank::ranks]
        return {"size": Sum((model(inputs) ** 2).sum(), float(len(inputs)), 1.0)}

    stage = Stage(
        name="only",
        optimiser=OptimiserRecipe(steps=5, warmup_steps=1, learning_rate=1e-2),
        batches=NoBatches(),
        parts=lambda batch, step: [partial(losses, step)],
        validate=lambda rank, ranks: {},
        validate_every=100,
        log_every=1,
        save_every=100,
    )
    learner = Learner(model, Parallel(rank=rank, ranks=ranks, first=rank == 0))
    kept = RunFolder(folder, SaveRecipe())
    train(learner, [stage], Run(folder=kept, log=RunLog(folder) if rank == 0 else None, seed=0))
    kept.close()
    torch.save([parameter.detach() for parameter in learner.parameters.values()], folder / f"rank{rank}.pt")


@pytest.mark.slow
def test_two_ranks_end_with_the_weights_of_one(tmp_path: Path) -> None:
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        run_ranks(ranks, partial(_work, folder), folder)
    alone = torch.load(tmp_path / "1" / "rank0.pt", weights_only=True)
    shared = [torch.load(tmp_path / "2" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for one, first, second in zip(alone, *shared, strict=True):
        torch.testing.assert_close(first, one, atol=1e-6, rtol=1e-5)
        assert torch.equal(first, second)


def test_torchrun_says_which_process_this_is() -> None:
    told = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "HOME": "/"}
    assert launch(told) == Launch(rank=5, ranks=16, local_rank=1, local_ranks=4)
    assert launch({"HOME": "/"}) == Launch()


def test_half_of_what_torchrun_says_is_refused() -> None:
    with pytest.raises(ValueError, match="RANK is set, but not LOCAL_RANK, LOCAL_WORLD_SIZE"):
        launch({"RANK": "0", "WORLD_SIZE": "2"})


def test_one_process_joins_nobody() -> None:
    with joined(Launch(), torch.device("cpu")):
        assert not torch.distributed.is_initialized()
