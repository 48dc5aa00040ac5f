"""What the loop needs of anything trainable, and the objective of Kosmos: the next word, never a picture.

Source: Kosmos-1 (arXiv 2302.14045), section 2.3. Losses are sums with counts, never means, so that micro-batches and
ranks add up to what one large batch gives. Legend: L rows that are asked for, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.training.cross_entropy import cross_entropy

__all__ = ["Batch", "KosmosObjective", "Sum", "Trainable", "overall"]

BatchT = TypeVar("BatchT", contravariant=True)
Batch = Mapping[str, Packed]
"""One step of Kosmos: `caption`, `text`, `interleaved`, each packed by itself."""


@dataclass(frozen=True)
class Sum:
    """A loss before division: `total` nats over `count` targets; `weight` is this loss's share beside others."""

    total: Tensor
    count: float
    weight: float


class Trainable(Protocol[BatchT]):
    """Anything the loop can train."""

    def losses(self, batch: BatchT) -> dict[str, Sum]:
        """Named sums of one batch."""
        ...


def overall(sums: Mapping[str, Sum]) -> Tensor:
    """The number to minimise: weighted nats a target."""
    count = sum(part.weight * part.count for part in sums.values())
    total = torch.stack([part.weight * part.total for part in sums.values()]).sum()
    return total / max(count, 1e-9)


@dataclass(frozen=True)
class KosmosObjective:
    """Next-token cross-entropy on words.

    Attributes:
        label_smoothing: share of each target spread evenly over the vocabulary; 0 for validation.
    """

    model: KosmosModel
    label_smoothing: float = 0.0

    def losses(self, batch: Batch) -> dict[str, Sum]:
        """One sum for each kind of sequence in the batch."""
        return {name: self._sum(packed) for name, packed in batch.items()}

    def _sum(self, packed: Packed) -> Sum:
        if packed.loss_weight is None:
            raise ValueError("a training batch needs loss_weight; encode documents with their losses")
        targets = torch.nonzero(packed.loss_weight, as_tuple=True)[0]
        hidden_LD = self.model(packed)[targets - 1]
        weights_L = packed.loss_weight[targets]
        total = cross_entropy(
            hidden_LD,
            self.model.decoder.head.weight,
            packed.tokens[targets],
            weights_L,
            label_smoothing=self.label_smoothing,
        )
        return Sum(total, float(weights_L.sum()), 1.0)
