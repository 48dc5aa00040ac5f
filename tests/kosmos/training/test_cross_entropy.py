"""Chunked cross-entropy: what `F.cross_entropy` of the whole logits gives, which are never whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kosmos.training.builtin.recipe import TINY
from kosmos.training.cross_entropy import cross_entropy, rows_at_once


class Problem(NamedTuple):
    """Arguments of `cross_entropy`, drawn."""

    hidden_LD: Tensor
    head_VD: Tensor
    targets_L: Tensor
    weights_L: Tensor


def _problem(rows: int, vocab: int, width: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> Problem:
    draws = torch.Generator().manual_seed(seed)
    return Problem(
        torch.randn(rows, width, generator=draws, dtype=dtype).requires_grad_(),
        torch.randn(vocab, width, generator=draws, dtype=dtype).requires_grad_(),
        torch.randint(vocab, (rows,), generator=draws),
        torch.rand(rows, generator=draws, dtype=dtype) * 2,
    )


def _whole(problem: Problem, label_smoothing: float = 0.0) -> Tensor:
    logits_LV = F.linear(problem.hidden_LD, problem.head_VD).float()
    losses_L = F.cross_entropy(logits_LV, problem.targets_L, reduction="none", label_smoothing=label_smoothing)
    return (losses_L * problem.weights_L).sum()


def _gradients(total: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    hidden_LD, head_VD = torch.autograd.grad(total, (problem.hidden_LD, problem.head_VD))
    return hidden_LD, head_VD


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 20),
    vocab=st.integers(2, 40),
    width=st.integers(1, 16),
    chunk=st.integers(1, 25),
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_those_of_whole_logits(
    rows: int, vocab: int, width: int, chunk: int, label_smoothing: float, seed: int
) -> None:
    problem = _problem(rows, vocab, width, seed)
    problem.weights_L[::3] = 0
    expected = _whole(problem, label_smoothing)
    found = cross_entropy(*problem, label_smoothing=label_smoothing, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(_gradients(3 * found, problem), _gradients(3 * expected, problem), strict=True):
        assert _distance(mine, theirs) < 1e-6 or float((mine - theirs).abs().max()) < 1e-6


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_gradients_are_those_of_finite_differences(label_smoothing: float) -> None:
    problem = _problem(5, 7, 3, dtype=torch.float64)
    problem.weights_L.requires_grad_()

    def total(hidden_LD: Tensor, head_VD: Tensor, weights_L: Tensor) -> Tensor:
        return cross_entropy(hidden_LD, head_VD, problem.targets_L, weights_L, label_smoothing=label_smoothing, chunk=2)

    assert torch.autograd.gradcheck(total, (problem.hidden_LD, problem.head_VD, problem.weights_L))


class _LargestMade(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that any operation gave."""

    numbers = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numbers = max(self.numbers, *made, 0)
        return out


def test_no_tensor_of_rows_by_vocabulary_is_made() -> None:
    rows, vocab, width, chunk = 64, 300, 8, 16
    problem = _problem(rows, vocab, width)
    with _LargestMade() as largest:  # type: ignore[no-untyped-call]
        _gradients(cross_entropy(*problem, label_smoothing=0.1, chunk=chunk), problem)
    assert largest.numbers == chunk * vocab
    with _LargestMade() as largest:  # type: ignore[no-untyped-call]
        _gradients(_whole(problem), problem)
    assert largest.numbers == rows * vocab


def test_the_loss_has_the_same_bits_whatever_the_chunk() -> None:
    """Small whole numbers multiply exactly, so the order in which a product sums cannot show."""
    problem = _problem(37, 50)
    exact = Problem(problem.hidden_LD.round(), problem.head_VD.round(), problem.targets_L, problem.weights_L)
    totals = {cross_entropy(*exact, label_smoothing=0.1, chunk=chunk).item() for chunk in (1, 2, 5, 16, 37, 100)}
    assert len(totals) == 1


def test_autocast_multiplies_in_bf16_and_sums_in_fp32() -> None:
    problem = _problem(33, 300, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, rounded = cross_entropy(*problem, chunk=8), _whole(problem)
    exact = cross_entropy(*problem, chunk=8)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rounded, rtol=1e-6, atol=0)
    assert found.item() != exact.item()
    for mine, theirs, best in zip(*(_gradients(total, problem) for total in (found, rounded, exact)), strict=True):
        assert mine.dtype == torch.float32
        assert _distance(mine, best) <= 1.1 * _distance(theirs, best) < 0.02


def test_another_product_under_the_same_autocast_still_reaches_the_head() -> None:
    """Autocast keeps a weight it has rounded; one rounded out of sight of autograd would have no gradient."""
    problem = _problem(4, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cross_entropy(*problem)
        logits_LV = F.linear(problem.hidden_LD, problem.head_VD)
    (grad_VD,) = torch.autograd.grad(logits_LV.sum(), problem.head_VD)
    assert float(grad_VD.abs().sum()) > 0


def test_a_bf16_head_gets_a_bf16_gradient() -> None:
    problem = _problem(6, 9, dtype=torch.bfloat16)
    total = cross_entropy(*problem, chunk=2)
    assert total.dtype == torch.float32
    total.backward()
    assert problem.head_VD.grad is not None
    assert problem.head_VD.grad.dtype == torch.bfloat16
    assert problem.hidden_LD.grad is not None
    assert problem.hidden_LD.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient_and_the_other_its_own(frozen: int) -> None:
    problem = _problem(9, 11)
    expected = _gradients(_whole(problem), problem)[1 - frozen]
    problem[frozen].requires_grad_(False)
    cross_entropy(*problem, chunk=4).backward()
    assert problem[frozen].grad is None
    found = problem[1 - frozen].grad
    assert found is not None
    assert _distance(found, expected) < 1e-6


def test_without_gradients_nothing_is_kept() -> None:
    problem = _problem(9, 11)
    with torch.no_grad():
        found = cross_entropy(*problem, chunk=4)
    assert not found.requires_grad
    torch.testing.assert_close(found, _whole(problem).detach())


def test_no_rows_are_no_loss_and_no_gradient() -> None:
    problem = _problem(0, 11)
    total = cross_entropy(*problem)
    hidden_LD, head_VD = _gradients(total, problem)
    assert total.item() == 0
    assert hidden_LD.shape == (0, 8)
    assert head_VD.shape == (11, 8)
    assert not head_VD.any()


def test_the_gradients_of_micro_batches_and_of_a_tied_embedding_add_up() -> None:
    problem = _problem(12, 11)
    table_VD, batches = problem.head_VD, (slice(0, 6), slice(6, 12))

    def tied(rows: slice) -> Problem:
        targets_L = problem.targets_L[rows]
        return Problem(F.embedding(targets_L.flip(0), table_VD), table_VD, targets_L, problem.weights_L[rows])

    (expected,) = torch.autograd.grad(torch.stack([_whole(tied(rows)) for rows in batches]).sum(), table_VD)
    for rows in batches:
        cross_entropy(*tied(rows), chunk=4).backward()
    assert table_VD.grad is not None
    assert _distance(table_VD.grad, expected) < 1e-6


def test_a_graph_that_is_kept_gives_the_same_gradients_again() -> None:
    problem = _problem(12, 11)
    total = cross_entropy(*problem, chunk=5, label_smoothing=0.1)
    first = torch.autograd.grad(2 * total, [problem.hidden_LD, problem.head_VD], retain_graph=True)
    second = torch.autograd.grad(total, [problem.hidden_LD, problem.head_VD])
    for doubled, once in zip(first, second, strict=True):
        torch.testing.assert_close(doubled, 2 * once)


def test_a_step_of_the_built_in_model_is_one_chunk() -> None:
    assert rows_at_once(8192) >= TINY.mixture.caption_rows


def test_chunks_of_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk=0"):
        cross_entropy(*_problem(3, 4), chunk=0)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("vocab", [5, 64, 301])
def test_torch_alone_gives_what_the_compiled_way_gives(
    vocab: int, label_smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = _problem(20, vocab)
    compiled = cross_entropy(*problem, label_smoothing=label_smoothing, chunk=7)
    monkeypatch.setattr("kosmos.training.cross_entropy.load_training_rows", lambda: None)
    alone = cross_entropy(*problem, label_smoothing=label_smoothing, chunk=7)
    torch.testing.assert_close(compiled, alone, rtol=1e-6, atol=0)
    for mine, theirs in zip(_gradients(compiled, problem), _gradients(alone, problem), strict=True):
        assert _distance(mine, theirs) < 1e-6


@pytest.mark.parametrize("target", [-1, 9])
def test_a_target_that_is_no_word_is_refused(target: int) -> None:
    problem = _problem(4, 9)
    problem.targets_L[2] = target
    with pytest.raises((IndexError, RuntimeError)):
        cross_entropy(*problem)


def test_a_row_that_is_not_finite_makes_a_loss_that_is_not() -> None:
    problem = _problem(4, 9)
    with torch.no_grad():
        problem.hidden_LD[1, 0] = float("nan")
    assert not torch.isfinite(cross_entropy(*problem))
