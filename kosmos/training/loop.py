"""The training loop: sums of losses, a step of AdamW, a moving average of the weights, a log, a state to resume from.

Knows nothing of Kosmos: a stage turns a batch into named sums. Dropout and samples of a step follow from seed, stage
and step, and the batches' own state is saved with the weights: a run killed at any moment and started again ends with
the same numbers.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # Any: the loop hands batches on and never looks into them

import torch
from torch import nn

from kosmos.training.batches import Batches
from kosmos.training.distributed import add_over_ranks, gathered
from kosmos.training.objective import Sum
from kosmos.training.recipe import OptimiserRecipe
from kosmos.training.schedule import learning_rate

__all__ = ["Learner", "RunFolder", "Stage", "train"]

log = logging.getLogger(__name__)
Sums = Mapping[str, Sum]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training with one objective.

    Attributes:
        batches: this rank's share of the data.
        losses: of (batch, step): this rank's share of the sums.
        validate: of (model, rank, ranks): figures of the averaged weights, equal on every rank.
    """

    name: str
    optimiser: OptimiserRecipe
    batches: Batches
    losses: Callable[[Mapping[str, Any], int], dict[str, Sum]]
    validate: Callable[[int, int], dict[str, float]]
    validate_every: int
    log_every: int
    save_every: int


class RunFolder:
    """`log.jsonl`, one object a line, and `state.pt`, the last good state; both whole at any moment."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.log_path, self.state_path = path, path / "log.jsonl", path / "state.pt"

    def write(self, record: Mapping[str, object]) -> None:
        """Append one line."""
        with self.log_path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")

    def cut_log(self, stage: int, step: int) -> None:
        """Drop lines of steps that will be done again."""
        if not self.log_path.exists():
            return
        lines = self.log_path.read_text("utf-8").splitlines()
        kept = [line for line in lines if (lambda r: (r["stage_number"], r["step"]))(json.loads(line)) <= (stage, step)]
        unfinished = self.log_path.with_suffix(".part")
        unfinished.write_text("".join(line + "\n" for line in kept), "utf-8")
        unfinished.replace(self.log_path)

    def save_state(self, state: Mapping[str, object]) -> None:
        """Write the state beside the old one, then rename."""
        unfinished = self.state_path.with_suffix(".part")
        with unfinished.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.state_path)


class Learner:
    """Weights, their moving average and the optimiser; the part of a run that a state file keeps."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.begin(OptimiserRecipe(steps=1))

    def begin(self, recipe: OptimiserRecipe) -> None:
        """A fresh optimiser for a new stage; it starts from the averaged weights. Decay acts on matrices alone."""
        self.recipe = recipe
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, self.average, strict=True):
                parameter.copy_(mean)
        matrices = [parameter for parameter in self.parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in self.parameters if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True
        )

    def step(self, number: int, sums: Sums) -> dict[str, float]:
        """One update from this rank's sums; returns the means over all ranks, the gradient's norm and the rate."""
        torch.stack([part.weight * part.total for part in sums.values() if part.weight]).sum().backward()
        names = sorted(sums)
        figures = torch.tensor(
            [[float(sums[n].total.detach()), sums[n].count, sums[n].weight * sums[n].count] for n in names]
        )
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        add_over_ranks([*gradients, figures])
        count = float(figures[:, 2].sum())
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.div_(max(count, 1e-9))
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm))
        recipe = self.recipe
        rate = learning_rate(
            number,
            peak=recipe.learning_rate,
            warmup_steps=recipe.warmup_steps,
            steps=recipe.steps,
            final_share=recipe.final_share,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        decay = min(recipe.average_decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        means = {name: float(figures[i, 0] / figures[i, 1].clamp(min=1e-9)) for i, name in enumerate(names)}
        return {**means, "gradient_norm": norm, "learning_rate": rate}

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights, for the length of a `with` block."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, self.average, strict=True):
                parameter.copy_(mean)
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.train()
            with torch.no_grad():
                for parameter, kept in zip(self.parameters, own, strict=True):
                    parameter.copy_(kept)

    def state(self, stage: int, step: int, batches: Mapping[str, object] | None = None) -> dict[str, object]:
        """What a state file holds; the next step to do is `step` of stage number `stage`, on batches from `batches`."""
        weights = [parameter.detach() for parameter in self.parameters]
        return {
            "stage": stage,
            "step": step,
            "weights": weights,
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "batches": dict(batches or {}),
        }

    def restore(self, path: Path, stages: Sequence[Stage]) -> tuple[int, int]:
        """Take over a state file; returns the stage number and the step to go on with."""
        state = torch.load(path, weights_only=True)
        stage, step = int(state["stage"]), int(state["step"])
        if stage < len(stages):
            self.begin(stages[stage].optimiser)
        with torch.no_grad():
            for mine, kept in ((self.parameters, state["weights"]), (self.average, state["average"])):
                for tensor, saved in zip(mine, kept, strict=True):
                    tensor.copy_(saved)
        if step:
            self.optimiser.load_state_dict(state["optimiser"])
            stages[stage].batches.load_state_dict(state["batches"])
        return stage, step


def train(
    learner: Learner,
    stages: Sequence[Stage],
    folder: RunFolder,
    *,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[str, int, int, Mapping[str, float]], None] | None = None,
) -> None:
    """Run all stages, going on where `folder` left off.

    Args:
        progress: told of (stage, step, steps, figures) after every step of rank 0.
    """
    start_stage, start_step = 0, 0
    if folder.state_path.exists():
        start_stage, start_step = learner.restore(folder.state_path, stages)
        log.info("resumed folder=%s stage=%d step=%d", folder.path, start_stage, start_step)
    if rank == 0:
        folder.cut_log(start_stage, start_step)
    for number in range(start_stage, len(stages)):
        stage = stages[number]
        first = start_step if number == start_stage else 0
        if first == 0:
            learner.begin(stage.optimiser)
        for step, batch in zip(range(first, stage.optimiser.steps), stage.batches, strict=False):
            begun = time.perf_counter()
            torch.manual_seed(((seed * 10 + number) * 10_000_000 + step) * 64 + rank)
            learner.model.train()
            figures = learner.step(step, stage.losses(batch, step))
            done, last = step + 1, step + 1 == stage.optimiser.steps
            if done % stage.validate_every == 0 or last:
                with learner.averaged():
                    figures |= stage.validate(rank, ranks)
            saves = done % stage.save_every == 0 and not last
            states = gathered(stage.batches.state_dict()) if saves else []
            if rank == 0:
                if progress:
                    progress(stage.name, done, stage.optimiser.steps, figures)
                if done % stage.log_every == 0 or last or done % stage.validate_every == 0:
                    seconds = time.perf_counter() - begun
                    record = {
                        "stage": stage.name,
                        "stage_number": number,
                        "step": done,
                        **figures,
                        "seconds": round(seconds, 3),
                    }
                    folder.write({key: round(v, 6) if isinstance(v, float) else v for key, v in record.items()})
                if last:
                    folder.save_state(learner.state(number + 1, 0))
                elif saves:
                    folder.save_state(learner.state(number, done, stage.batches.merge(states)))
