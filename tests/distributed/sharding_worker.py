"""One of the processes that torchrun starts for `test_sharding.py`: layouts against one process, facts as JSON.

Each process also computes what one process alone gets from all rows, so nothing but figures is handed on.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from kosmos.packed import Packed
from kosmos.training import parallel as parallel_module
from kosmos.training import tensor_parallel
from kosmos.training.distributed import joined, launch
from kosmos.training.learner import Learner
from kosmos.training.learning import choose_parameters
from kosmos.training.lora import add_adapters
from kosmos.training.objective import KosmosObjective
from kosmos.training.parallel import ALONE, Parallel, share_out
from kosmos.training.recipe import ComputeRecipe, LoraRecipe, OptimiserRecipe, ParallelRecipe
from kosmos.training.tensor_parallel import SplitNorm
from kosmos.transformer.config import ExpertsConfig
from tests.distributed.drawn import drawn_model, sequences, together

STEPS = 2
# How even a router deals is seen in each device's own rows, so the balance of two is not that of one.
EXPERTS = ExpertsConfig(num_experts=4, top_k=2, balance_weight=0.0)
CASES: dict[int, dict[str, tuple[ParallelRecipe, ComputeRecipe, dict[str, Any]]]] = {
    2: {
        "ddp": (ParallelRecipe(), ComputeRecipe(), {}),
        "fsdp": (ParallelRecipe(sharding="fsdp"), ComputeRecipe(checkpointing="selective"), {}),
        "fsdp-sparse": (ParallelRecipe(sharding="fsdp"), ComputeRecipe(checkpointing="full"), {"experts": EXPERTS}),
        "fsdp-lora": (ParallelRecipe(sharding="fsdp"), ComputeRecipe(), {"lora": LoraRecipe(rank=2, alpha=2.0)}),
        "tensor": (ParallelRecipe(tensor_parallel=2), ComputeRecipe(), {}),
        "tensor-again": (ParallelRecipe(tensor_parallel=2), ComputeRecipe(checkpointing="full"), {}),
        "tensor-buckets": (ParallelRecipe(tensor_parallel=2), ComputeRecipe(), {"positions": "t5", "norms": "pre"}),
    },
    4: {
        "ddp-tensor": (ParallelRecipe(tensor_parallel=2), ComputeRecipe(), {}),
        "fsdp-tensor": (ParallelRecipe(sharding="fsdp", tensor_parallel=2), ComputeRecipe(checkpointing="full"), {}),
        "hsdp": (ParallelRecipe(sharding="hsdp", node=2), ComputeRecipe(), {}),
    },
}


def _objective(variant: Mapping[str, Any]) -> KosmosObjective:
    model = drawn_model(seed=0, **{name: value for name, value in variant.items() if name != "lora"})
    choose_parameters(model, "last-layer")
    if "lora" in variant:
        add_adapters(model, variant["lora"], "drawn")
        with torch.no_grad():  # the second matrix of an adapter is 0 at first, and the gradient of the first with it
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return KosmosObjective(model, label_smoothing=0.1).train()


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def _batch(rank: int, ranks: int) -> dict[str, Packed]:
    """This share of all rows: pictures stand in the first share's captions alone."""
    return {kind: together(rows[rank::ranks]) for kind, rows in sequences().items()}


def _gradients(objective: KosmosObjective, parallel: Parallel, batch: Mapping[str, Packed]) -> dict[str, Any]:
    """What a step's backward leaves: gradients by name, their norm, the losses of all ranks."""
    parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    parts, losses = objective.parts(batch), torch.zeros(2, dtype=torch.float64)
    for place, part in enumerate(parts):
        total = next(iter(part().values())).total
        parallel.backward(total, last=place + 1 == len(parts))
        losses[place] = float(total.detach())
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    parallel.sum_gradients(parameters.values())
    parallel.add([losses])
    norm = parallel.gradient_norm(parameters.values())
    whole = {name: _whole(p.grad) for name, p in parameters.items() if p.grad is not None}
    objective.zero_grad(set_to_none=True)
    return {"losses": losses, "norm": norm, "gradients": whole}


def _steps(objective: KosmosObjective, parallel: Parallel, batch: Mapping[str, Packed]) -> dict[str, Any]:
    """Some steps of AdamW, then the losses of the averaged weights and of the last ones, in this order."""
    learner = Learner(objective, parallel)
    # A larger eps than that of runs: AdamW makes a whole step of a gradient that is nothing but rounding.
    learner.begin(OptimiserRecipe(steps=10, warmup_steps=1, learning_rate=1e-3, average_decay=0.5, eps=1e-4))
    figures = [learner.step(step, objective.parts(batch)) for step in range(STEPS)]
    validated = []
    with torch.no_grad():
        for weights in (learner.averaged(), _kept(objective)):
            with weights:
                found = torch.tensor([float(part.total.detach()) for part in objective.losses(batch).values()])
            parallel.add([found])
            validated.append(found)
    names = learner.parameters
    return {
        "figures": figures,
        "validated": torch.stack(validated),
        "weights": {name: _whole(p) for name, p in names.items()},
        "share": sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in names.values())
        / sum(p.numel() for p in names.values()),
    }


@contextmanager
def _kept(objective: nn.Module) -> Iterator[None]:
    objective.eval()
    yield
    objective.train()


def _far(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference, in shares of the largest number."""
    assert ours.keys() == theirs.keys()
    largest = max(float(value.abs().max()) for value in theirs.values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) / largest


def _compare(recipe: ParallelRecipe, compute: ComputeRecipe, variant: Mapping[str, Any]) -> dict[str, Any]:
    """One layout beside one process."""
    objective = _objective(variant)
    alone = copy.deepcopy(objective)
    if dist.get_rank():  # the numbers of rank 0 are to count
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter.mul_(2)
    parallel = share_out(objective, recipe, compute, launch())
    own, every = _batch(parallel.rank, parallel.ranks), _batch(0, 1)
    ours, theirs = _gradients(objective, parallel, own), _gradients(alone, ALONE, every)
    stepped, expected = _steps(objective, parallel, own), _steps(alone, ALONE, every)
    pairs = zip(stepped["figures"], expected["figures"], strict=True)
    figures = [step[name] / wanted[name] - 1 for step, wanted in pairs for name in wanted if name != "balance"]
    return {
        "losses": float((ours["losses"] / theirs["losses"] - 1).abs().max()),
        "norm": float(ours["norm"] / theirs["norm"] - 1),
        "gradients": _far(ours["gradients"], theirs["gradients"]),
        "figures": max(map(abs, figures)),
        "weights": max(
            float((stepped["weights"][n] - expected["weights"][n]).abs().max()) for n in expected["weights"]
        ),
        "validated": float((stepped["validated"] / expected["validated"] - 1).abs().max()),
        "moved": float((expected["validated"][0] / expected["validated"][1] - 1).abs().max()),
        "share": stepped["share"],
        "rank": [parallel.rank, parallel.ranks],
        "gathered": parallel.gathered(dist.get_rank()),
    }


def _as_on_a_gpu() -> dict[str, float]:
    """FSDP with what only a GPU is given: bfloat16 weights and blocks gathered ahead, under autocast."""
    objective = _objective({})
    alone = copy.deepcopy(objective)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    with mock.patch.object(parallel_module, "_policy", return_value=policy):
        parallel = share_out(objective, ParallelRecipe(sharding="fsdp"), ComputeRecipe(), launch())
    blocks: Any = list(objective.model.decoder.blocks)
    assert parallel.root is not None
    parallel_module._prefetch(parallel.root, blocks)
    with torch.autocast("cpu", torch.bfloat16):
        ours = _gradients(objective, parallel, _batch(parallel.rank, parallel.ranks))
    theirs = _gradients(alone, ALONE, _batch(0, 1))
    assert all(gradient.dtype == torch.float32 for gradient in ours["gradients"].values())
    return {
        "losses": float((ours["losses"] / theirs["losses"] - 1).abs().max()),
        "gradients": _far(ours["gradients"], theirs["gradients"]),
    }


def _norm() -> dict[str, float]:
    """A norm over a split axis whose shares differ widely, beside the whole one and one of its own share alone."""
    mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(7, 12, generator=draw) + torch.tensor([0.0] * 6 + [5.0] * 6)
    slope = torch.randn(7, 12, generator=draw)
    whole = nn.LayerNorm(12)
    with torch.no_grad():
        whole.weight.copy_(torch.randn(12, generator=draw))
        whole.bias.copy_(torch.randn(12, generator=draw))
    split, own = SplitNorm(whole, mesh), slice(6 * rank, 6 * rank + 6)
    rows, part = x.clone().requires_grad_(), x[:, own].clone().requires_grad_()
    out, out_of_part = whole(rows), split(part)
    (out * slope).sum().backward()
    (out_of_part * slope[:, own]).sum().backward()
    local = nn.functional.layer_norm(x[:, own], (6,), whole.weight[own], whole.bias[own])
    grads = {name: _whole(getattr(split, name).grad) for name in ("weight", "bias")}
    assert rows.grad is not None
    assert part.grad is not None
    return {
        "forward": float((out[:, own] - out_of_part).detach().abs().max()),
        "backward": float((rows.grad[:, own] - part.grad).abs().max()),
        "scale": _far({"weight": grads["weight"]}, {"weight": _whole(whole.weight.grad)}),
        "shift": _far({"bias": grads["bias"]}, {"bias": _whole(whole.bias.grad)}),
        "without": float((out[:, own] - local).detach().abs().max()),
    }


def _unreduced() -> dict[str, float]:
    """How far gradients are off where one of the two reductions of the norm is left out."""

    def statistics(x: Tensor, group: object) -> tuple[Tensor, Tensor]:
        return x.mean(-1), x.var(-1, correction=0)

    def statistics_of_slopes(slope: Tensor, normed: Tensor, group: object) -> tuple[Tensor, Tensor]:
        return slope.mean(-1), (slope * normed).mean(-1)

    found = {}
    for broken in (statistics, statistics_of_slopes):
        objective = _objective({})
        alone = copy.deepcopy(objective)
        parallel = share_out(objective, ParallelRecipe(tensor_parallel=2), ComputeRecipe(), launch())
        with mock.patch.object(tensor_parallel, f"_{broken.__name__}", broken):
            ours = _gradients(objective, parallel, _batch(0, 1))
        found[broken.__name__] = _far(ours["gradients"], _gradients(alone, ALONE, _batch(0, 1))["gradients"])
    return found


def main(out: Path) -> None:
    """Write `rank0.json` ... into a folder."""
    here = launch()
    torch.set_flush_denormal(True)
    with joined(here, here.device):
        facts: dict[str, Any] = {name: _compare(*case) for name, case in CASES[here.ranks].items()}
        if here.ranks == 2:
            facts |= {"norm": _norm(), "unreduced": _unreduced(), "gpu": _as_on_a_gpu()}
        (out / f"rank{here.rank}.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
