"""Experts split over two processes give what one process gives over all rows: outputs, gradients, balance, clipping."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing import assert_close

from kosmos.training.distributed import add_over_ranks, run_ranks
from kosmos.transformer.expert_parallel import join_experts, split_experts, split_parameters
from kosmos.transformer.experts import Experts, balance_losses
from kosmos.transformer.sparse_clip import sparse_clip
from tests.kosmos.transformer.sparse import rows, small_experts

SPLIT = 19  # of 50 rows: ranks differ
VARIANTS: dict[str, dict[str, Any]] = {
    "xmoe": {"router": "xmoe"},
    "three": {"router": "xmoe", "top_k": 3, "gate": "sigmoid"},
    "pre": {"router": "switch", "norms": "pre"},
}


def _step(layer: Experts, x_RD: Tensor, weights_RD: Tensor) -> dict[str, Tensor]:
    """Forward and backward of the output and of the balance loss in training mode."""
    out = layer.train()(x_RD)
    balance = balance_losses(layer).total
    ((out * weights_RD).sum() + balance).backward()
    return {"out": out.detach(), "balance": balance.detach()}


def _finish(layer: Experts) -> dict[str, Tensor]:
    norm = sparse_clip(layer, 0.5)
    return {"norm": norm} | {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}


def _work(folder: Path, rank: int, ranks: int) -> None:
    mesh = init_device_mesh("cpu", (ranks,))
    with pytest.raises(ValueError, match="5 experts do not divide over 2 ranks"):
        split_experts(small_experts(num_experts=5), mesh)
    torch.save(
        {name: _one(small_experts(**VARIANTS[name]), mesh, rank) for name in VARIANTS}, folder / f"rank{rank}.pt"
    )


def _one(layer: Experts, mesh: DeviceMesh, rank: int) -> dict[str, Tensor]:
    before = copy.deepcopy(layer.state_dict())
    mine = slice(0, SPLIT) if rank == 0 else slice(SPLIT, 50)
    split_experts(layer, mesh)
    assert layer.stack().widen_EFD.shape[0] == 3
    x = rows(50)[mine].clone().requires_grad_()
    found = _step(layer, x, rows(50, seed=4)[mine])
    apart = {id(parameter) for parameter in split_parameters(layer)}
    add_over_ranks([p.grad for p in layer.parameters() if p.grad is not None and id(p) not in apart])
    found |= _finish(layer) | {"x": x.grad if x.grad is not None else torch.empty(0)}
    join_experts(layer)
    assert layer.exchange is None
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    return {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in found.items()}


@pytest.mark.slow
def test_two_processes_with_half_the_experts_each_equal_one(tmp_path: Path) -> None:
    run_ranks(2, partial(_work, tmp_path), tmp_path)
    both = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, variant in VARIANTS.items():
        halves = [found[name] for found in both]
        layer, x = small_experts(**variant), rows(50).requires_grad_()
        whole = _step(layer, x, rows(50, seed=4))
        whole |= _finish(layer) | {"x": x.grad if x.grad is not None else torch.empty(0)}
        assert whole["norm"] > 0.5
        assert_close(torch.cat([half["out"] for half in halves]), whole["out"])
        assert_close(torch.cat([half["x"] for half in halves]), whole["x"], atol=1e-5, rtol=1e-5)
        assert_close(halves[0]["balance"] + halves[1]["balance"], whole["balance"])
        for half in halves:
            for key in set(whole) - {"out", "x", "balance"}:
                assert_close(half[key], whole[key], atol=1e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
