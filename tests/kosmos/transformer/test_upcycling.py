"""A sparse model made from a dense one gives the dense output until it is trained, and then its router learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kosmos.transformer.experts import Experts
from kosmos.transformer.feedforward import FeedForward
from kosmos.transformer.upcycling import upcycle
from tests.kosmos.transformer.sparse import WIDTH, rows, small_experts, sparse_shape


def models(**experts: Any) -> tuple[nn.Sequential, nn.Sequential]:
    sparse = nn.Sequential(nn.Linear(WIDTH, WIDTH), small_experts(**experts))
    dense = nn.Sequential(nn.Linear(WIDTH, WIDTH), FeedForward(sparse_shape()))
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return sparse.eval(), dense.eval()


@pytest.mark.parametrize(
    "experts",
    [
        {"router": "xmoe", "top_k": 1},
        {"router": "xmoe", "top_k": 3, "gate": "sigmoid"},
        {"router": "switch", "top_k": 1},
        {"router": "gshard", "top_k": 2},
        {"router": "torchscale", "top_k": 2},
    ],
    ids=lambda experts: f"{experts['router']}-{experts['top_k']}",
)
def test_copies_give_the_dense_output_before_training(experts: dict[str, Any]) -> None:
    sparse, dense = models(unit_gates=True, **experts)
    assert not torch.allclose(sparse(rows(20)), dense(rows(20)), atol=1e-2)
    upcycle(sparse, dense)
    assert_close(sparse(rows(20)), dense(rows(20)))
    assert_close(sparse.train()(rows(20)), dense(rows(20)))  # a second choice left out hands its weight to the first


def test_a_router_whose_gate_is_one_still_learns() -> None:
    sparse, dense = models(unit_gates=True)
    upcycle(sparse, dense)
    layer = sparse[1]
    assert isinstance(layer, Experts)
    sparse(rows(20)).square().sum().backward()
    assert layer.last is not None
    assert_close(layer.last.gates_RK, torch.ones(20, 1))
    assert layer.router.reduction.grad is not None
    assert layer.router.reduction.grad.abs().sum() > 1  # rounding alone leaves some thousandths


def test_the_router_keeps_its_start_and_experts_are_copies() -> None:
    sparse, dense = models(unit_gates=True)
    layer = sparse[1]
    assert isinstance(layer, Experts)
    before = layer.router.reduction.detach().clone()
    upcycle(sparse, dense)
    assert torch.equal(layer.router.reduction, before)
    assert torch.equal(layer.fc2.weight, dense[1].fc2.weight.expand_as(layer.fc2.weight))
    with torch.no_grad():
        layer.fc2.weight[0].zero_()
    assert bool((layer.fc2.weight[1] != 0).any()), "copies, not one tensor seen many times"


def test_a_model_that_would_differ_is_refused() -> None:
    with pytest.raises(ValueError, match="unit_gates=True"):
        upcycle(*models())
    sparse, dense = models(unit_gates=True)
    with pytest.raises(ValueError, match=r"1\.fc1\.weight .* nothing in the dense model"):
        upcycle(sparse, dense[:1])
    with pytest.raises(ValueError, match=r"also has \['2\.bias'"):
        upcycle(sparse, nn.Sequential(*dense, nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="give one of its shape"):
        upcycle(sparse, nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), dense[1]))
