"""Gradients of experts come back to the same memory, and never to memory that something still sees."""

from __future__ import annotations

import copy

import pytest
import torch

from kosmos.transformer import gradient_room
from kosmos.transformer.gradient_room import PAGE_BYTES, GradientRoom
from tests.kosmos.transformer.sparse import rows, small_experts


@pytest.fixture(autouse=True)
def _small_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_room, "RECYCLED_BYTES", 0)


def test_memory_is_used_again_once_no_tensor_sees_it() -> None:
    room, parameter = GradientRoom(), torch.zeros(3, 5)
    first = room.like(parameter)
    assert first.shape == (3, 5)
    assert first.data_ptr() % PAGE_BYTES == 0
    seen, place = first[1:], first.data_ptr()
    second = room.like(parameter)
    del first
    third = room.like(parameter)
    assert len({place, second.data_ptr(), third.data_ptr()}) == 3, "a view of the first is still there"
    del seen
    assert room.like(parameter).data_ptr() == place
    assert room.like(torch.zeros(4, 5)).data_ptr() not in {second.data_ptr(), third.data_ptr()}


def test_a_layer_keeps_its_memory_from_step_to_step() -> None:
    layer, places = small_experts(), []
    for _ in range(3):
        layer.zero_grad(set_to_none=True)
        layer(rows(20)).square().sum().backward()
        assert layer.fc1.weight.grad is not None
        places.append(layer.fc1.weight.grad.data_ptr())
    assert len(set(places)) == 1


def test_gradients_that_are_held_or_added_up_are_not_overwritten() -> None:
    layer = small_experts()
    layer(rows(20)).square().sum().backward()
    assert layer.fc1.weight.grad is not None
    held, first = layer.fc1.weight.grad, layer.fc1.weight.grad.clone()
    layer(rows(20)).square().sum().backward()
    assert torch.equal(layer.fc1.weight.grad, 2 * first)
    layer.zero_grad(set_to_none=True)
    layer(rows(20, seed=8)).square().sum().backward()
    assert torch.equal(held, 2 * first)


def test_a_copied_layer_has_room_of_its_own() -> None:
    layer = small_experts()
    layer(rows(20)).square().sum().backward()
    assert copy.deepcopy(layer).room is not layer.room
