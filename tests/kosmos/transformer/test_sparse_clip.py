"""SparseClip counts an expert's gradient for its share of the rows and scales every gradient, in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kosmos.transformer.sparse_clip import sparse_clip
from tests.kosmos.transformer.sparse import WIDTH, rows, small_experts


def trained() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), small_experts(), small_experts(num_experts=4, seed=2))
    model(rows(30)).square().sum().backward()
    return model


def is_expert(name: str) -> bool:
    return name[0] in "12" and "router" not in name


def norm_by_hand(model: nn.Sequential) -> float:
    total = 0.0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            square = float((parameter.grad.double().numpy() ** 2).sum())
            total += square / {"1": 6, "2": 4}[name[0]] if is_expert(name) else square
    return float(np.sqrt(total))


def test_the_norm_divides_expert_gradients_by_the_root_of_their_number() -> None:
    model = trained()
    expected = norm_by_hand(model)
    assert sparse_clip(model, 1e9).item() == pytest.approx(expected, rel=1e-5)


def test_every_gradient_shrinks_in_place_and_the_norm_becomes_the_limit() -> None:
    model = trained()
    before = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    factor = 0.5 / norm_by_hand(model)
    assert factor < 1
    sparse_clip(model, 0.5)
    assert any(is_expert(name) for name in before)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad is before[name][0]
            assert_close(parameter.grad, before[name][1] * factor)
    assert norm_by_hand(model) == pytest.approx(0.5, rel=1e-4)


def test_small_gradients_stay_as_they_are() -> None:
    model = trained()
    before = model[1].fc1.weight.grad.clone()
    sparse_clip(model, 1e9)
    assert torch.equal(model[1].fc1.weight.grad, before)


def test_a_model_without_experts_is_clipped_as_torch_clips() -> None:
    model = nn.Linear(WIDTH, 3)
    model(rows(9)).square().sum().backward()
    theirs = nn.Linear(WIDTH, 3)
    theirs.load_state_dict(model.state_dict())
    theirs(rows(9)).square().sum().backward()
    assert_close(sparse_clip(model, 0.1), nn.utils.clip_grad_norm_(theirs.parameters(), 0.1))
    assert_close(model.weight.grad, theirs.weight.grad)
