"""A killed run ends with the numbers of an unbroken one; the update is the mean gradient whatever the shares were."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kosmos.training.learner import Diverged, Learner
from kosmos.training.loop import Run, Stage, train
from kosmos.training.objective import Part, Sum
from kosmos.training.recipe import OptimiserRecipe, SaveRecipe
from kosmos.training.run_folder import RunFolder
from kosmos.training.run_log import RunLog

KEPT = SaveRecipe(every=3)


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


def _stage(model: nn.Module, name: str, *, steps: int, average_decay: float = 0.998, micro_batches: int = 1) -> Stage:
    """Noisy regression with dropout: whatever is not resumed exactly shows in the weights."""

    def losses(batch: Mapping[str, Tensor]) -> dict[str, Sum]:
        inputs, targets = batch["inputs"], batch["targets"]
        error = (nn.functional.dropout(model(inputs), 0.2, model.training) - targets) ** 2
        return {"error": Sum(error.sum(), float(len(inputs)), 1.0)}

    return Stage(
        name=name,
        optimiser=OptimiserRecipe(steps=steps, learning_rate=1e-2, warmup_steps=2, average_decay=average_decay),
        batches=_Noise(),
        parts=lambda batch, step: [partial(losses, batch)],
        validate=lambda rank, ranks: {"validation_weight": float(next(model.parameters()).detach().sum())},
        validate_every=5,
        log_every=1,
        save_every=KEPT.every,
        micro_batches=micro_batches,
    )


def _run(folder: Path, *, killed_at: tuple[str, int] | None = None, stopped_at: int | None = None) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    learner = Learner(model)
    taken = 0

    def progress(stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
        nonlocal taken
        taken += 1
        if (stage, step) == killed_at:
            raise KeyboardInterrupt

    stages = [
        _stage(model, "first", steps=10, micro_batches=2),
        _stage(model, "second", steps=7, average_decay=0.0),
    ]
    kept, log = RunFolder(folder, KEPT), RunLog(folder)
    run = Run(folder=kept, log=log, seed=0, progress=progress, stopped=lambda: taken == stopped_at)
    try:
        ended = train(learner, stages, run)
    finally:
        kept.close()
    assert ended == (stopped_at is None)
    return [*learner.parameters.values(), *learner.average]


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


def test_a_run_asked_to_stop_saves_that_step_and_goes_on_from_it(tmp_path: Path) -> None:
    unbroken = _run(tmp_path / "unbroken")
    _run(tmp_path / "stopped", stopped_at=5)
    assert (tmp_path / "stopped" / "step-000005").is_dir()
    assert len(_lines(tmp_path / "stopped")) == 5
    resumed = _run(tmp_path / "stopped")
    assert all(torch.equal(one, other) for one, other in zip(unbroken, resumed, strict=True))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    _run(tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    _run(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_validation_sees_the_averaged_weights_and_training_goes_on_from_its_own() -> None:
    learner = Learner(nn.Linear(3, 1))
    learner.begin(OptimiserRecipe(steps=1))
    own = [parameter.detach().clone() for parameter in learner.parameters.values()]
    learner.average = [torch.zeros_like(parameter) for parameter in own]
    with learner.averaged() as model:
        assert all(not parameter.any() for parameter in model.parameters())
        assert not model.training
    assert all(torch.equal(one, other) for one, other in zip(own, learner.parameters.values(), strict=True))


def _fixed(model: nn.Linear, **sums: tuple[float, float, float]) -> list[Part]:
    """Parts whose totals are multiples of the only weight: (factor, count, weight) each."""
    return [lambda: {name: Sum(model.weight[0, 0] * factor, *rest) for name, (factor, *rest) in sums.items()}]


def _learner(**fields: float) -> tuple[nn.Linear, Learner]:
    torch.manual_seed(1)
    model = nn.Linear(1, 1, bias=False)
    learner = Learner(model)
    learner.begin(OptimiserRecipe(steps=100, warmup_steps=1, **fields))  # type: ignore[arg-type]
    return model, learner


def test_sums_of_different_weight_divide_by_their_weighted_count() -> None:
    model, learner = _learner(clip_norm=1e9)
    before = float(model.weight.detach())
    figures = learner.step(0, _fixed(model, a=(6, 3.0, 1.0), b=(8, 2.0, 0.5)))
    assert figures["gradient_norm"] == pytest.approx((6 + 4) / (3 + 1))
    assert figures["a"] == pytest.approx(before * 6 / 3)


def test_parts_of_a_step_add_up_to_the_whole_of_it() -> None:
    whole_model, whole = _learner(clip_norm=1.0)
    parts_model, parts = _learner(clip_norm=1.0)
    found = whole.step(0, _fixed(whole_model, a=(6, 3.0, 1.0)))
    summed = parts.step(0, [*_fixed(parts_model, a=(2, 1.0, 1.0)), *_fixed(parts_model, a=(4, 2.0, 1.0))])
    assert found == pytest.approx(summed)
    assert torch.equal(whole_model.weight, parts_model.weight)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    model, learner = _learner()
    learner.step(0, _fixed(model, a=(1, 1.0, 1.0)))
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    figures = learner.step(1, _fixed(model, a=(math.inf, 1.0, 1.0)))
    assert figures["skipped"] == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.tensors().items())


def test_a_spike_is_passed_over_once_it_is_known_what_is_usual() -> None:
    model, learner = _learner(spike_factor=5.0)
    for step in range(50):
        learner.step(step, _fixed(model, a=(1 + step % 2, 1.0, 1.0)))
    before = model.weight.detach().clone()
    assert "skipped" not in learner.step(50, _fixed(model, a=(7.0, 1.0, 1.0)))
    moved = model.weight.detach().clone()
    assert learner.step(51, _fixed(model, a=(20.0, 1.0, 1.0)))["skipped"] == 1
    assert torch.equal(model.weight, moved)
    assert not torch.equal(before, moved)


def test_too_many_steps_passed_over_in_a_row_stop_the_run() -> None:
    model, learner = _learner(max_skipped=2)
    for step in range(2):
        learner.step(step, _fixed(model, a=(math.nan, 1.0, 1.0)))
    with pytest.raises(Diverged, match="3 steps in a row") as stopped:
        learner.step(2, _fixed(model, a=(math.nan, 1.0, 1.0)))
    assert stopped.value.step == 2


def test_a_step_that_was_taken_ends_the_row() -> None:
    model, learner = _learner(max_skipped=1)
    for step in range(6):
        learner.step(step, _fixed(model, a=(math.nan if step % 2 else 1.0, 1.0, 1.0)))
    assert learner.skipped == 3


def test_a_run_without_an_average_keeps_none() -> None:
    _, learner = _learner(average_decay=0.0)
    assert not learner.average
    assert not any(name.startswith("average.") for name in learner.tensors())


def test_decay_acts_on_matrices_and_not_on_stacked_biases_and_norms() -> None:
    model = nn.ModuleDict({name: nn.Module() for name in ("fc1", "norm")})
    for part in model.values():
        part.weight, part.bias = nn.Parameter(torch.ones(3, 2, 2)), nn.Parameter(torch.ones(3, 2))
    learner = Learner(model)
    learner.begin(OptimiserRecipe(steps=1, learning_rate=0.1, warmup_steps=0, weight_decay=0.5, average_decay=0.0))
    nothing = sum(parameter.sum() for parameter in model.parameters()) * 0.0
    learner.step(0, [lambda: {"nothing": Sum(nothing, 1.0, 1.0)}])  # type: ignore[dict-item]
    changed = [
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, torch.ones_like(parameter))
    ]
    assert changed == ["fc1.weight"]
