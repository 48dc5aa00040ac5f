"""The router `torchscale` over our experts gives the output of torchscale 0.3.0's MOELayer, with copied weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from kosmos.bench.experts import process_group_of_one, torchscale_layer
from kosmos.transformer.config import DecoderConfig, ExpertsConfig
from kosmos.transformer.experts import Experts

REASON = "torchscale 0.3.0 and fairscale 0.4.0 are NOT installed; pip install --no-deps -r requirements-peers.lock"
pytest.importorskip("fairscale", reason=REASON, exc_type=ImportError)
pytest.importorskip("torchscale.component.xmoe.moe_layer", reason=REASON, exc_type=ImportError)

WIDTH, FFN, EXPERTS, ROWS = 64, 128, 6, 80


@pytest.fixture
def alone() -> Iterator[None]:
    with process_group_of_one():
        yield


def copy_of(peer: Any, top_k: int) -> Experts:
    experts = ExpertsConfig(num_experts=EXPERTS, top_k=top_k, router="torchscale")
    shape = DecoderConfig(vocab_size=8, num_layers=2, width=WIDTH, num_heads=4, ffn_width=FFN, experts=experts)
    layer = Experts(shape, experts)
    theirs = peer.state_dict()
    state = {"router.reduction": theirs["gate.wg_reduction.weight"], "router.experts": theirs["gate.wg"]}
    for ours, name in {"fc1": "fc1", "norm": "ffn_layernorm", "fc2": "fc2"}.items():
        for kind in ("weight", "bias"):
            state[f"{ours}.{kind}"] = torch.stack([theirs[f"experts.{e}.{name}.{kind}"] for e in range(EXPERTS)])
    layer.load_state_dict(state)
    return layer


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("top_k", [1, 2])
def test_output_balance_and_gradients_are_those_of_torchscale(top_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # its second expert is drawn at random in evaluation too; zeros keep it always
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    torch.manual_seed(0)
    peer = torchscale_layer(WIDTH, FFN, EXPERTS, top_k=top_k, eval_fraction=1.0).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    layer = copy_of(peer, top_k).eval()
    theirs_x, x = (torch.randn(1, ROWS, WIDTH, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    theirs_x, x = theirs_x.requires_grad_(), x[0].requires_grad_()
    expected, balance = peer(theirs_x)
    out = layer(x)
    assert expected.std() > 0.05
    assert_close(out, expected[0], atol=1e-5, rtol=0)
    assert layer.last is not None
    assert_close(layer.last.balance, balance, atol=1e-5, rtol=0)
    for loss in ((expected.square().sum() + balance), (out.square().sum() + layer.last.balance)):
        loss.backward()
    assert theirs_x.grad is not None
    assert_close(x.grad, theirs_x.grad[0], atol=2e-5, rtol=1e-4)
    assert_close(layer.fc1.weight.grad[2], peer.experts[2].fc1.weight.grad, atol=2e-5, rtol=1e-4)  # type: ignore[index]
