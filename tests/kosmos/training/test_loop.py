"""A killed run ends with the numbers of an unbroken one; the update is the mean gradient whatever the shares were."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kosmos.training.loop import Learner, RunFolder, Stage, train
from kosmos.training.objective import Sum
from kosmos.training.recipe import OptimiserRecipe


class _Noise:
    """Inputs and targets without end, drawn one after the other: a stream that forgets its place shows."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        while True:
            draw = torch.Generator().manual_seed(self.taken)
            self.taken += 1
            yield {"inputs": torch.randn(8, 4, generator=draw), "targets": torch.randn(8, 1, generator=draw)}

    def state_dict(self) -> dict[str, object]:
        return {"taken": self.taken}

    def merge(self, records: Sequence[Mapping[str, object]]) -> dict[str, object]:
        return dict(records[0])

    def load_state_dict(self, record: Mapping[str, int]) -> None:
        self.taken = record["taken"]


def _stage(model: nn.Module, name: str, *, steps: int) -> Stage:
    """Noisy regression with dropout: whatever is not resumed exactly shows in the weights."""

    def losses(batch: Mapping[str, Tensor], step: int) -> dict[str, Sum]:
        inputs, targets = batch["inputs"], batch["targets"]
        error = (nn.functional.dropout(model(inputs), 0.2, model.training) - targets) ** 2
        return {"error": Sum(error.sum(), float(len(inputs)), 1.0)}

    return Stage(
        name=name,
        optimiser=OptimiserRecipe(steps=steps, learning_rate=1e-2, warmup_steps=2),
        batches=_Noise(),
        losses=losses,
        validate=lambda rank, ranks: {"validation_weight": float(next(model.parameters()).detach().sum())},
        validate_every=5,
        log_every=1,
        save_every=3,
    )


def _run(folder: Path, *, killed_at: tuple[str, int] | None = None) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    learner = Learner(model)

    def progress(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
        if (stage, step) == killed_at:
            raise KeyboardInterrupt

    stages = [_stage(model, "first", steps=10), _stage(model, "second", steps=7)]
    train(learner, stages, RunFolder(folder), seed=0, progress=progress)
    return [*learner.parameters, *learner.average]


def _lines(folder: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.mark.parametrize("place", [("first", 2), ("first", 8), ("first", 10), ("second", 1), ("second", 5)])
def test_a_killed_run_ends_with_the_same_weights_and_the_same_log(tmp_path: Path, place: tuple[str, int]) -> None:
    unbroken = _run(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "killed", killed_at=place)
    resumed = _run(tmp_path / "killed")
    assert all(torch.equal(one, other) for one, other in zip(unbroken, resumed, strict=True))
    assert _lines(tmp_path / "unbroken") == _lines(tmp_path / "killed")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    _run(tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    _run(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_validation_sees_the_averaged_weights_and_training_goes_on_from_its_own(tmp_path: Path) -> None:
    learner = Learner(nn.Linear(3, 1))
    own = [parameter.detach().clone() for parameter in learner.parameters]
    learner.average = [torch.zeros_like(parameter) for parameter in learner.parameters]
    with learner.averaged() as model:
        assert all(not parameter.any() for parameter in model.parameters())
        assert not model.training
    assert all(torch.equal(one, other) for one, other in zip(own, learner.parameters, strict=True))


def test_sums_of_different_weight_divide_by_their_weighted_count() -> None:
    model = nn.Linear(1, 1, bias=False)
    learner = Learner(model)
    learner.begin(OptimiserRecipe(steps=10, warmup_steps=1, clip_norm=1e9))
    weight, before = model.weight[0, 0], float(model.weight.detach())
    figures = learner.step(0, {"a": Sum(weight * 6, 3.0, 1.0), "b": Sum(weight * 8, 2.0, 0.5)})
    assert figures["gradient_norm"] == pytest.approx((6 + 4) / (3 + 1))
    assert figures["a"] == pytest.approx(before * 6 / 3)
