"""Losses are sums: parts add up to the whole, and only the rows asked for count."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kosmos.packed import Packed
from kosmos.training import cross_entropy
from kosmos.training.objective import KosmosObjective, Sum, overall
from tests.models import small_kosmos
from text.tokenizer import Tokenizer


def _packed(rows: list[list[int]], asked: list[list[int]]) -> Packed:
    return Packed(
        tokens=torch.tensor([token for row in rows for token in row]),
        lengths=tuple(len(row) for row in rows),
        positions=torch.cat([torch.arange(len(row)) for row in rows]),
        loss_weight=torch.tensor([float(one) for row in asked for one in row]),
    )


ROWS, ASKED = [[0, 20, 21, 22, 2], [0, 30, 31, 2]], [[0, 0, 1, 1, 1], [0, 1, 0, 1]]


@torch.no_grad()
def test_sequences_apart_add_up_to_the_batch(small_tokenizer: Tokenizer) -> None:
    objective = KosmosObjective(small_kosmos(small_tokenizer).network)
    whole = objective.losses({"text": _packed(ROWS, ASKED)})["text"]
    parts = [objective.losses({"text": _packed([r], [a])})["text"] for r, a in zip(ROWS, ASKED, strict=True)]
    assert whole.count == sum(part.count for part in parts) == 5
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)


@torch.no_grad()
def test_each_word_is_asked_of_the_row_before_it(small_tokenizer: Tokenizer) -> None:
    network = small_kosmos(small_tokenizer).network
    found = KosmosObjective(network).losses({"text": _packed(ROWS[:1], [[0, 0, 0, 1, 0]])})["text"]
    logits = network.logits(network(_packed(ROWS[:1], ASKED[:1])))
    torch.testing.assert_close(found.total, -logits[2].log_softmax(-1)[22])


@pytest.mark.parametrize("logits_at_once", [1, cross_entropy.LOGITS_AT_ONCE])
def test_loss_and_gradients_are_those_of_whole_smoothed_logits(
    small_tokenizer: Tokenizer, logits_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS_AT_ONCE", logits_at_once)
    network, packed = small_kosmos(small_tokenizer).network, _packed(ROWS, ASKED)
    weights = list(network.decoder.parameters())
    found = KosmosObjective(network, label_smoothing=0.1).losses({"text": packed})["text"].total
    rows = torch.tensor([1, 2, 3, 5, 7])  # of ROWS laid end to end, the ones before those asked for
    logits = network.logits(network(packed)[rows])
    whole = F.cross_entropy(logits, packed.tokens[rows + 1], reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(found, whole)
    for mine, theirs in zip(torch.autograd.grad(found, weights), torch.autograd.grad(whole, weights), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)  # fp32, through all layers


def test_a_batch_without_weights_is_refused(small_tokenizer: Tokenizer) -> None:
    plain = Packed(tokens=torch.tensor([0, 5]), lengths=(2,), positions=torch.arange(2))
    with pytest.raises(ValueError, match="loss_weight"):
        KosmosObjective(small_kosmos(small_tokenizer).network).losses({"text": plain})


def test_the_overall_loss_is_weighted_nats_a_target() -> None:
    sums = {"a": Sum(torch.tensor(6.0), 3.0, 1.0), "b": Sum(torch.tensor(8.0), 2.0, 0.5)}
    assert float(overall(sums)) == pytest.approx((6 + 4) / (3 + 1))
