"""Two ranks do what one does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from kosmos.training.batches import NoBatches
from kosmos.training.distributed import run_ranks
from kosmos.training.loop import Learner, RunFolder, Stage, train
from kosmos.training.objective import Sum
from kosmos.training.recipe import OptimiserRecipe


def _work(folder: Path, rank: int, ranks: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def losses(batch: Mapping[str, object], step: int) -> dict[str, Sum]:
        draw = torch.Generator().manual_seed(step)
        inputs = torch.randn(9, 4, generator=draw)[rank::ranks]
        return {"size": Sum((model(inputs) ** 2).sum(), float(len(inputs)), 1.0)}

    stage = Stage(
        name="only",
        optimiser=OptimiserRecipe(steps=5, warmup_steps=1, learning_rate=1e-2),
        batches=NoBatches(),
        losses=losses,
        validate=lambda rank, ranks: {},
        validate_every=100,
        log_every=1,
        save_every=100,
    )
    learner = Learner(model)
    train(learner, [stage], RunFolder(folder), seed=0, rank=rank, ranks=ranks)
    torch.save([parameter.detach() for parameter in learner.parameters], folder / f"rank{rank}.pt")


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
