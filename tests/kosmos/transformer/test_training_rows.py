"""What a training step does between its products: equal to torch's own operations, whichever way is taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer import training_rows
from kosmos.transformer.kernels.training import Dropping, are_plain, load_training_rows
from kosmos.transformer.training_rows import activated_norm, add_dropped, dropped

compiled = pytest.mark.skipif(load_training_rows() is None, reason="no compiled kernels")


def norm_of(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("width", [96, 50])
@pytest.mark.parametrize("shape", [(70,), (1,), (2, 65)])
def test_a_norm_behind_gelu_gives_what_torch_gives(shape: tuple[int, ...], width: int) -> None:
    torch.manual_seed(0)
    x, norm = (3 * torch.randn(*shape, width)).requires_grad_(), norm_of(width)
    inputs = (x, norm.weight, norm.bias)
    ours, theirs = activated_norm(x, norm), norm(F.gelu(x))
    assert_close(ours, theirs, atol=5e-6, rtol=1e-5)
    slopes = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, slopes), torch.autograd.grad(theirs, inputs, slopes), strict=True
    ):
        assert_close(one, other, atol=2e-5, rtol=1e-5)


@compiled
def test_only_rows_of_a_training_step_take_the_compiled_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def noted(name: str) -> Callable[..., Tensor]:
        return lambda *inputs: taken.append(name) or inputs[0]  # type: ignore[func-returns-value]

    monkeypatch.setattr(training_rows._ActivatedNorm, "apply", noted("norm"))
    monkeypatch.setattr(training_rows._AddDropped, "apply", noted("add"))
    x, norm = torch.randn(4, 32), norm_of(32)
    activated_norm(x, norm)
    add_dropped(x, x, 0.1, True)
    assert taken == ["norm", "add"]
    with torch.no_grad():
        activated_norm(x, norm)
        add_dropped(x, x, 0.1, True)
    with torch.autocast("cpu", torch.bfloat16):
        activated_norm(x, norm)
        add_dropped(x, x, 0.1, True)
    activated_norm(x, nn.Identity())
    activated_norm(x.double(), norm.double())
    add_dropped(x, x, 0.1, False)
    assert len(taken) == 2


@compiled
def test_a_sum_with_dropout_is_the_sum_with_some_numbers_gone() -> None:
    torch.manual_seed(0)
    stream, x = (torch.randn(200, 77, requires_grad=True) for _ in range(2))
    added = add_dropped(stream, x, 0.2, True)
    factors = ((added - stream) / x).detach()
    gone = factors.abs() < 0.5
    assert float(gone.float().mean()) == pytest.approx(0.2, abs=0.01)
    assert_close(factors[~gone], torch.full_like(factors[~gone], 1.25), atol=1e-2, rtol=0)
    slopes = torch.randn_like(added)
    of_stream, of_x = torch.autograd.grad(added, (stream, x), slopes)
    assert torch.equal(of_stream, slopes)
    assert_close(of_x, slopes * 1.25 * ~gone)


@compiled
def test_dropout_alone_drops_as_a_sum_does() -> None:
    x = torch.ones(50, 40)
    torch.manual_seed(3)
    alone = dropped(x, 0.3, True)
    torch.manual_seed(3)
    assert torch.equal(add_dropped(torch.zeros(50, 40), x, 0.3, True), alone)
    assert alone.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert dropped(x, 0.3, False) is x


@compiled
def test_a_seeded_step_drops_alike_and_every_call_drops_others() -> None:
    x = torch.ones(50, 40)
    torch.manual_seed(3)
    first, second = dropped(x, 0.5, True), dropped(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropped(x, 0.5, True), first)
    assert float((first == second).float().mean()) == pytest.approx(0.5, abs=0.05)
    for shift in (1, 40):  # nor is one the other, moved
        moved = first.flatten().roll(shift)
        assert float((moved == second.flatten()).float().mean()) == pytest.approx(0.5, abs=0.05)


@compiled
def test_threads_change_no_bit_of_a_norms_gradient() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(300, 64, requires_grad=True), norm_of(64)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(activated_norm(x, norm).square().sum(), (x, norm.weight, norm.bias))

    alone = gradients()
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(one, other) for one, other in zip(gradients(), alone, strict=True))
    finally:
        torch.set_num_threads(1)


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert Dropping.drawn(0.0).numbers == (0, 0, 1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_that_only_pretend_are_not_plain() -> None:
    assert are_plain(torch.ones(2), nn.Parameter(torch.ones(2)))
    assert not are_plain(torch.ones(2, device="meta"))
    assert not are_plain(torch.ones(2, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not are_plain(torch.ones(2))
