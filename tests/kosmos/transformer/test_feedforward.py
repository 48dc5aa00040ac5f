"""What follows attention is chosen by one table: dense, one for each modality, or a kind that a test adds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from kosmos.transformer import feedforward
from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.config import ExpertsConfig
from kosmos.transformer.feedforward import FEEDFORWARDS, FeedForward, Kind, Multiway, build_feedforward
from kosmos.transformer.stack import Decoder
from tests.kosmos.transformer.small import small_config


@pytest.fixture
def multiway() -> Multiway:
    torch.manual_seed(0)
    return Multiway(replace(small_config(), num_modalities=3))


def test_each_row_goes_through_the_feedforward_of_its_modality(multiway: Multiway) -> None:
    rows, kinds = torch.randn(9, 32), torch.tensor([2, 0, 1, 1, 0, 2, 2, 1, 0])
    mixed = multiway(rows, kinds)
    for row, kind, out in zip(rows, kinds, mixed, strict=True):
        assert_close(out, multiway.modalities[int(kind)](row[None])[0], atol=1e-6, rtol=1e-5)


def test_rows_of_one_modality_leave_the_other_weights_a_gradient_of_zero(multiway: Multiway) -> None:
    multiway(torch.randn(4, 32), torch.ones(4, dtype=torch.long)).sum().backward()
    idle, busy = multiway.modalities[0], multiway.modalities[1]
    for parameter in idle.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in busy.parameters())


@pytest.mark.parametrize(("kinds", "complaint"), [(None, "say which"), ([0, 3], "0 to 2"), ([-1, 0], "0 to 2")])
def test_rows_of_no_known_modality_are_refused(multiway: Multiway, kinds: list[int] | None, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        multiway(torch.randn(2, 32), None if kinds is None else torch.tensor(kinds))


def test_one_modality_has_one_dense_feedforward_and_several_have_one_each() -> None:
    assert type(build_feedforward(small_config(), 0)) is FeedForward
    assert type(build_feedforward(replace(small_config(), num_modalities=2), 0)) is Multiway


@pytest.mark.parametrize(("every", "sparse"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2])])
def test_every_nth_layer_counted_from_one_is_sparse(every: int, sparse: list[int]) -> None:
    shape = replace(small_config(), experts=ExpertsConfig(num_experts=4, every=every))
    assert [layer for layer in range(4) if FEEDFORWARDS["experts"].serves(shape, layer)] == sparse


class Halving(nn.Module):
    """A feed-forward without weights."""

    def forward(self, x_RD: Tensor, kinds_R: Tensor | None = None) -> Tensor:
        return x_RD / 2


def test_a_new_feedforward_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    halving = Kind(lambda shape, layer: layer == 1, lambda shape: Halving())
    monkeypatch.setattr(feedforward, "FEEDFORWARDS", {"halving": halving, **FEEDFORWARDS})
    decoder = Decoder(small_config()).eval()
    assert [type(block.feedforward) for block in decoder.blocks] == [FeedForward, Halving]
    assert decoder(torch.randn(3, 32), torch.arange(3), PackedAttention([3])).shape == (3, 32)
