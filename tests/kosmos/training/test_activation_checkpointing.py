"""Blocks that forget what they computed have the gradients of those that do not, and compute again what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kosmos.training.activation_checkpointing import checkpoint_blocks
from kosmos.training.objective import KosmosObjective, overall
from kosmos.training.recipe import Checkpointing
from kosmos.transformer.config import ExpertsConfig
from tests.distributed.drawn import drawn_model, sequences, together

DROPPING = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "drop_path": 0.2}


def _step(how: Checkpointing, **changes: Any) -> tuple[dict[str, Tensor], int]:
    """Gradients by name and what products of forward and backward took."""
    objective = KosmosObjective(drawn_model(seed=0, **changes)).train()
    checkpoint_blocks(objective.model.decoder.blocks, how)
    batch = {kind: together(rows) for kind, rows in sequences().items()}
    torch.manual_seed(1)
    with FlopCounterMode(display=False) as counter:
        overall(objective.losses(batch)).backward()
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}, counter.get_total_flops()


@pytest.mark.parametrize("how", ["selective", "full"])
@pytest.mark.parametrize(
    "changes",
    [{}, DROPPING, {**DROPPING, "positions": "t5"}, {"experts": ExpertsConfig(num_experts=4, top_k=2)}],
    ids=["plain", "dropping", "biased", "sparse"],
)
def test_gradients_are_those_of_blocks_that_remember(how: Checkpointing, changes: dict[str, Any]) -> None:
    wanted, _ = _step("none", **changes)
    found, _ = _step(how, **changes)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_selective_computes_no_product_twice_and_full_every_block() -> None:
    products = {how: _step(how)[1] for how in ("none", "selective", "full")}
    assert products["selective"] == products["none"]
    assert products["full"] > 1.15 * products["none"]


def test_without_gradients_nothing_is_kept_or_done_again() -> None:
    model = drawn_model(seed=0).eval()
    batch = together(sequences()["text"])
    with torch.no_grad():
        plain = model(batch)
        checkpoint_blocks(model.decoder.blocks, "full")
        assert torch.equal(model(batch), plain)
    assert list(model.state_dict()) == list(drawn_model(seed=0).state_dict())
