"""The instruments give the paper's numbers, computed here with numpy class by class and pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kosmos.transformer.routing_instruments import (
    inter_run_consistency,
    load_entropy,
    representation_collapse,
    routing_fluctuation,
)


def test_representation_collapse_is_the_trace_of_within_over_between() -> None:
    draw = np.random.default_rng(0)
    hidden, experts = draw.normal(size=(200, 7)), draw.integers(0, 5, 200)
    hidden += draw.normal(size=(5, 7))[experts]
    mean, within, between = hidden.mean(0), np.zeros((7, 7)), np.zeros((7, 7))
    for expert in range(5):
        members = hidden[experts == expert]
        for row in members:
            within += np.outer(row - members.mean(0), row - members.mean(0)) / 200
        between += np.outer(members.mean(0) - mean, members.mean(0) - mean) / 5
    values, vectors = np.linalg.eigh(between)
    inverse = sum(
        np.outer(v, v) / value for value, v in zip(values, vectors.T, strict=True) if value > 1e-6 * values.max()
    )
    got = representation_collapse(torch.tensor(hidden), torch.tensor(experts))
    assert got == pytest.approx(np.trace(within @ inverse), rel=1e-9)


def test_experts_without_rows_do_not_count_and_collapsed_rows_give_zero() -> None:
    hidden, experts = torch.randn(50, 4), torch.randint(0, 3, (50,))
    assert representation_collapse(hidden, experts) == pytest.approx(representation_collapse(hidden, experts * 7))
    assert representation_collapse(torch.eye(3)[experts], experts) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="went to 1 experts"):
        representation_collapse(hidden, torch.zeros(50, dtype=torch.long))


def test_routing_fluctuation_is_the_share_of_rows_that_moved() -> None:
    assert routing_fluctuation(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 3, 2])) == 0.5
    with pytest.raises(ValueError, match="same rows twice"):
        routing_fluctuation(torch.zeros(3), torch.zeros(4))


def test_inter_run_consistency_is_the_mean_correlation_of_all_pairs_with_the_diagonal() -> None:
    loads = np.random.default_rng(1).integers(0, 100, (4, 8))
    pairs = [np.corrcoef(first, second)[0, 1] for first in loads for second in loads]
    assert inter_run_consistency(torch.tensor(loads)) == pytest.approx(np.mean(pairs))
    assert inter_run_consistency(torch.tensor(loads[:1])) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="run 1 loads all experts alike"):
        inter_run_consistency(torch.tensor([[1, 2, 3], [2, 2, 2]]))


def test_load_entropy_is_1_when_even_and_0_when_one_takes_all() -> None:
    assert load_entropy(torch.tensor([5, 5, 5, 5])) == pytest.approx(1.0)
    assert load_entropy(torch.tensor([0, 9, 0])) == pytest.approx(0.0)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert load_entropy(torch.tensor([1, 3])) == pytest.approx(expected)
    with pytest.raises(ValueError, match="0 rows over 3 experts"):
        load_entropy(torch.zeros(3))
