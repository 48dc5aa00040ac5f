"""The part of a run that learns: weights, their moving average, AdamW, and what it remembers of its gradients.

Knows neither files nor devices: `parallel` adds over ranks, `tensors` and `memory` are what a checkpoint keeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kosmos.training.objective import Part, Sum
from kosmos.training.parallel import ALONE, Parallel
from kosmos.training.recipe import OptimiserRecipe
from kosmos.training.schedule import learning_rate

__all__ = ["Diverged", "Learner"]

NORM_DECAY = 0.98  # of the running mean of gradient norms
ENOUGH_NORMS = 50  # steps before that mean says what is unusual
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Diverged(ValueError):
    """So many steps one after the other could not be taken that going on makes no sense; `step` was the last."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Learner:
    """Takes steps.

    Attributes:
        parameters: what trains, by name.
        average: their moving average, in the same order; empty where the recipe keeps none.
        skipped: steps passed over in this run.
    """

    def __init__(self, module: nn.Module, parallel: Parallel = ALONE) -> None:
        """
        Args:
            module: a model or an objective around one.
        """
        self.module, self.parallel = module, parallel
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average: list[Tensor] = []
        self.skipped = self.in_a_row = self.taken = 0
        self.usual_norm = 0.0
        self.begin(OptimiserRecipe(steps=1, average_decay=0.0))

    @torch.no_grad()
    def begin(self, recipe: OptimiserRecipe) -> None:
        """A fresh optimiser for a new stage; it starts from the averaged weights. Decay acts on matrices alone."""
        self.recipe = recipe
        weights = list(self.parameters.values())
        for parameter, mean in zip(weights, self.average, strict=False):
            parameter.copy_(mean)
        self.average = [p.detach().clone() for p in weights] if recipe.average_decay else []
        matrices = [p for name, p in self.parameters.items() if _is_matrix(name, p)]
        vectors = [p for name, p in self.parameters.items() if not _is_matrix(name, p)]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=recipe.learning_rate,
            betas=recipe.betas,
            eps=recipe.eps,
            fused=True,
        )
        self.taken, self.usual_norm = 0, 0.0

    def step(self, number: int, parts: Sequence[Part]) -> dict[str, float]:
        """One update from this rank's parts.

        Returns: means over all ranks, the gradient's norm, the rate, and `skipped` steps so far where there are any.
        Raises: Diverged when too many steps in a row were passed over.
        """
        sums = self._backward(parts)
        figures, count = self._means(sums)
        weights = list(self.parameters.values())
        for parameter in weights:
            if parameter.grad is None:  # nothing of this step concerns it; ranks still add what stands in one place
                parameter.grad = torch.zeros_like(parameter)
        self.parallel.sum_gradients(weights)
        norm = float(self.parallel.gradient_norm(weights)) / count
        rate = self._rate(number)
        if self._usual(norm):
            scale = min(1.0, self.recipe.clip_norm / (norm + 1e-6)) / count
            torch._foreach_mul_([p.grad for p in weights if p.grad is not None], scale)
            self._update(number, rate, norm)
        else:
            self._pass_over(number, norm)
        self.optimiser.zero_grad(set_to_none=True)
        counted = {"skipped": float(self.skipped)} if self.skipped else {}
        return {**figures, "gradient_norm": norm, "learning_rate": rate, **counted}

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The module in evaluation with its averaged weights, for the length of a `with` block."""
        weights = list(self.parameters.values()) if self.average else []
        own = [parameter.detach().clone() for parameter in weights]
        _copy(weights, self.average)
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.train()
            _copy(weights, own)

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint keeps, as it lies on this rank; filling these in place restores them."""
        found = {f"weights.{name}": p.detach() for name, p in self.parameters.items()}
        for name, mean in zip(self.parameters, self.average, strict=False):
            found[f"average.{name}"] = mean
        for name, parameter in self.parameters.items():
            state = self.optimiser.state[parameter]
            if not state:  # as AdamW makes it at its first step
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            found |= {f"optimiser.{moment}.{name}": state[moment].detach() for moment in MOMENTS}
        return found

    def memory(self) -> dict[str, float]:
        """Plain values of the same checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "taken": self.taken, "usual_norm": self.usual_norm}

    def remember(self, memory: Mapping[str, float]) -> None:
        """Take them over."""
        self.skipped, self.in_a_row = int(memory["skipped"]), int(memory["in_a_row"])
        self.taken, self.usual_norm = int(memory["taken"]), float(memory["usual_norm"])

    def _backward(self, parts: Sequence[Part]) -> dict[str, tuple[Tensor, float, float]]:
        """Gradients of all parts, and their sums by name: total, count, weighted count."""
        sums: dict[str, tuple[Tensor, float, float]] = {}
        for place, part in enumerate(parts):
            found = part()
            learnt = [one.weight * one.total for one in found.values() if one.weight and one.total.requires_grad]
            if learnt:
                self.parallel.backward(torch.stack(learnt).sum(), last=place == len(parts) - 1)
            for name, one in found.items():
                total, count, weighted = sums.get(name, (torch.zeros(()), 0.0, 0.0))
                sums[name] = (total + one.total.detach().float().cpu(), count + one.count, weighted + _weighted(one))
        return sums

    def _means(self, sums: Mapping[str, tuple[Tensor, float, float]]) -> tuple[dict[str, float], float]:
        """Means over all ranks, and the count to divide gradients by."""
        names = sorted(sums)
        figures = torch.tensor([[float(sums[name][0]), *sums[name][1:]] for name in names], dtype=torch.float64)
        self.parallel.add([figures])
        means = {name: float(figures[i, 0] / figures[i, 1].clamp(min=1e-9)) for i, name in enumerate(names)}
        return means, max(float(figures[:, 2].sum()), 1e-9)

    def _usual(self, norm: float) -> bool:
        """Whether a step is to be taken: all its numbers are finite and it is no spike."""
        factor = self.recipe.spike_factor
        return math.isfinite(norm) and not (factor and self.taken >= ENOUGH_NORMS and norm > factor * self.usual_norm)

    def _update(self, number: int, rate: float, norm: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        if self.average:
            decay = min(self.recipe.average_decay, (1 + number) / (10 + number))
            get_ema_multi_avg_fn(decay)(self.average, [p.detach() for p in self.parameters.values()], None)
        decay = min(NORM_DECAY, self.taken / (self.taken + 1))  # a plain mean at first
        self.usual_norm = decay * self.usual_norm + (1 - decay) * norm
        self.taken, self.in_a_row = self.taken + 1, 0

    def _pass_over(self, number: int, norm: float) -> None:
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row > self.recipe.max_skipped:
            raise Diverged(
                f"{self.in_a_row} steps in a row were passed over, the last (step {number + 1}) with a gradient norm of"
                f" {norm:.3g}, where {self.usual_norm:.3g} is usual; begin a new run with a lower"
                " optimiser.learning_rate, or remove this run's newest steps to go on from an older one",
                number,
            )

    def _rate(self, number: int) -> float:
        recipe = self.recipe
        return learning_rate(
            number,
            peak=recipe.learning_rate,
            warmup_steps=recipe.warmup_steps,
            steps=recipe.steps,
            final_share=recipe.final_share,
            schedule=recipe.schedule,
        )


def _is_matrix(name: str, parameter: Tensor) -> bool:
    """Biases and norms of experts are vectors too, if many in a stack."""
    *_, module, own = ("", *name.split("."))
    return parameter.ndim > 1 and own != "bias" and "norm" not in module


def _weighted(one: Sum) -> float:
    return one.weight * one.count


@torch.no_grad()
def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
