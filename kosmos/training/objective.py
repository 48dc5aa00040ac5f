"""What the loop needs of anything trainable, and the objective of Kosmos: the next word, never a picture.

Source: Kosmos-1 (arXiv 2302.14045), section 2.3. Losses are sums with counts, never means, so that micro-batches and
ranks add up to what one large batch gives. Legend: L rows that are asked for, D width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.training.cross_entropy import cross_entropy
from kosmos.transformer.experts import balance_losses, experts_of

__all__ = ["Batch", "KosmosObjective", "Part", "Sum", "Trainable", "added", "overall"]

BatchT = TypeVar("BatchT", contravariant=True)
Batch = Mapping[str, Packed]
"""One step of Kosmos: `caption`, `text`, `interleaved`, each packed by itself."""
WORDS, BALANCE = "words", "balance"


@dataclass(frozen=True)
class Sum:
    """A loss before division: `total` nats over `count` targets; `weight` is this loss's share beside others."""

    total: Tensor
    count: float
    weight: float


Part: TypeAlias = Callable[[], dict[str, Sum]]
"""A piece of a step's work: its sums are carried backward before the next piece is computed."""


class Trainable(Protocol[BatchT]):
    """Anything the loop can train."""

    def losses(self, batch: BatchT) -> dict[str, Sum]:
        """Named sums of one batch."""
        ...


def added(parts: Iterable[Mapping[str, Sum]]) -> dict[str, Sum]:
    """Sums of the same name put together."""
    found: defaultdict[str, list[Sum]] = defaultdict(list)
    for part in parts:
        for name, one in part.items():
            found[name].append(one)
    return {
        name: Sum(torch.stack([one.total for one in sums]).sum(), sum(one.count for one in sums), sums[0].weight)
        for name, sums in found.items()
    }


def overall(sums: Mapping[str, Sum]) -> Tensor:
    """The number to minimise: weighted nats a target."""
    count = sum(part.weight * part.count for part in sums.values())
    total = torch.stack([part.weight * part.total for part in sums.values()]).sum()
    return total / max(count, 1e-9)


class KosmosObjective(nn.Module):
    """Next-token cross-entropy on words and, where the model is sparse, the balance of its experts.

    Attributes:
        label_smoothing: share of each target spread evenly over the vocabulary; 0 for validation.
    """

    def __init__(self, model: KosmosModel, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        experts = model.config.decoder.experts
        self.num_sparse = len(experts_of(model))
        self.balance_weight = experts.balance_weight if experts is not None else 0.0

    def losses(self, batch: Batch) -> dict[str, Sum]:
        """One sum for each kind of sequence in the batch, and one of the experts' balance over all of them."""
        return added(part() for part in self.parts(batch))

    def parts(self, batch: Batch) -> Sequence[Part]:
        """The same, a kind of sequence at a time."""
        return [partial(self._sums, name, packed) for name, packed in batch.items()]

    def forward(self, packed: Packed) -> dict[str, Tensor]:
        """Totals: of `words`, and `balance` of a sparse model in training.

        All that has weights is read in here, where an engine that shards them has gathered them.
        Raises: ValueError for a batch that does not say which rows are asked for.
        """
        if packed.loss_weight is None:
            raise ValueError("a training batch needs loss_weight; encode documents with their losses")
        targets = torch.nonzero(packed.loss_weight, as_tuple=True)[0]
        hidden_RD = self.model(packed)
        total = cross_entropy(
            hidden_RD[targets - 1],
            self.model.decoder.head.weight,
            packed.tokens[targets],
            packed.loss_weight[targets],
            label_smoothing=self.label_smoothing,
        )
        if not (self.num_sparse and self.training):
            return {WORDS: total}
        return {WORDS: total, BALANCE: balance_losses(self.model).total}

    def _sums(self, name: str, packed: Packed) -> dict[str, Sum]:
        totals = self(packed)
        weight = packed.loss_weight
        found = {name: Sum(totals[WORDS], float(weight.sum()) if weight is not None else 0.0, 1.0)}
        if BALANCE in totals:
            rows = float(packed.tokens.shape[0] * self.num_sparse)
            found[BALANCE] = Sum(totals[BALANCE], rows, self.balance_weight)
        return found
