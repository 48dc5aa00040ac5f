"""How well a model in training captions photographs it is not trained on: loss and greedy CIDEr-D, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from kosmos.model import KosmosModel
from kosmos.processor import Processor
from kosmos.training.builtin.features import Bytes, restored
from kosmos.training.builtin.rollout import Layout, caption_rollout
from kosmos.training.distributed import add_over_ranks
from kosmos.training.objective import KosmosObjective
from text.document import Document, Image, Text

__all__ = ["CaptionMetric", "CaptionValidation", "MetricOf"]

TOKENS = 24
BATCH = 50  # pictures


class CaptionMetric(Protocol):
    """A metric made of references, e.g. CIDEr-D; it scores the caption of picture number `picture`."""

    def score(self, candidate: str, picture: int) -> float:
        """Higher is better."""
        ...


MetricOf = Callable[[Sequence[Sequence[str]]], CaptionMetric]


@dataclass(frozen=True)
class CaptionValidation:
    """Called with (rank, ranks); every rank gets the figures of all pictures.

    Attributes:
        processor: one that leaves pictures closed.
        captions, features: of each picture; features as stored bytes [N, 49, 1280].
    """

    model: KosmosModel
    processor: Processor
    captions: Sequence[tuple[str, ...]]
    features: Bytes
    metric: CaptionMetric

    @torch.no_grad()
    def __call__(self, rank: int, ranks: int) -> dict[str, float]:
        sums = torch.zeros(2, 2)
        mine = list(range(len(self.captions)))[rank::ranks]
        for start in range(0, len(mine), BATCH):
            part = mine[start : start + BATCH]
            sums += torch.tensor([self._loss(part), self._score(part)])
        add_over_ranks([sums])
        return {"validation_loss": float(sums[0, 0] / sums[0, 1]), "validation_cider_d": float(sums[1, 0] / sums[1, 1])}

    def _loss(self, pictures: Sequence[int]) -> tuple[float, float]:
        pairs = [(picture, caption) for picture in pictures for caption in self.captions[picture]]
        rows = [self.processor.encode(Document((Image(b""), Text(caption))), training=True) for _, caption in pairs]
        seen = restored(np.stack([self.features[picture] for picture, _ in pairs]))
        batch = {"caption": self.processor.collate(rows, features=seen)}
        found = KosmosObjective(self.model).losses(batch)["caption"]
        return float(found.total), found.count

    def _score(self, pictures: Sequence[int]) -> tuple[float, float]:
        latents_NLD = self.model.resampler(restored(np.stack([self.features[picture] for picture in pictures])))
        layout = Layout.of(self.processor)
        found = caption_rollout(self.model, layout, latents_NLD, max_tokens=TOKENS)
        words = [self.processor.decode(row.tolist()) for row in found.ids]
        scores = [self.metric.score(text, picture) for text, picture in zip(words, pictures, strict=True)]
        return sum(scores), len(pictures)
