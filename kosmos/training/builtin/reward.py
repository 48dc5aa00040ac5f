"""The reward stage: the model captions training pictures several ways and learns towards its own better captions.

Source: self-critical sequence training (arXiv 1612.00563); the baseline of a sample is the mean of its siblings.
The judge (CIDEr-D against the training captions) is handed in. Legend: N sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.training.builtin.recipe import RewardRecipe
from kosmos.training.builtin.rollout import Layout, caption_rollout
from kosmos.training.objective import Sum

__all__ = ["Judge", "RewardObjective"]

Judge = Callable[[str, int], float]
"""A caption and the number of the training picture it is of -> its score."""


@dataclass(frozen=True)
class RewardObjective:
    """Policy gradient on sampled captions; counts sampled tokens."""

    model: KosmosModel
    layout: Layout
    recipe: RewardRecipe
    judge: Judge
    decode: Callable[[Sequence[int]], str]

    def losses(self, pictures: Sequence[int], features_NPW: Tensor, *, seed: int) -> dict[str, Sum]:
        """`reward`: minus log-probability times advantage; `score`: the judge's sum, which is only reported.

        Args:
            pictures: numbers of the N pictures, for the judge.   seed: of the samples.
        """
        recipe = self.recipe
        self.model.eval()  # samples and gradients of the same policy: without dropout
        latents_NLD = self.model.encode_images(_only_pictures(features_NPW, self.layout))
        assert latents_NLD is not None
        repeated_NLD = latents_NLD.repeat_interleave(recipe.samples, dim=0)
        draw = torch.Generator().manual_seed(seed)
        ids, lengths = caption_rollout(
            self.model, self.layout, repeated_NLD.detach(), max_tokens=recipe.max_tokens, draw=draw
        )
        rows = [row[:length].tolist() for row, length in zip(ids, lengths.tolist(), strict=True)]
        captions = [self.decode(row) for row in rows]
        owners = [picture for picture in pictures for _ in range(recipe.samples)]
        scores = torch.tensor([self.judge(caption, picture) for caption, picture in zip(captions, owners, strict=True)])
        groups = scores.view(-1, recipe.samples)
        siblings = (groups.sum(1, keepdim=True) - groups) / (recipe.samples - 1)
        total = -(self._log_probabilities(rows, repeated_NLD) * (groups - siblings).view(-1)).sum()
        self.model.train()
        tokens = float(lengths.sum())
        return {"reward": Sum(total, tokens, 1.0), "score": Sum(scores.sum(), float(len(rows)), 0.0)}

    def _log_probabilities(self, rows: Sequence[Sequence[int]], latents_NLD: Tensor) -> Tensor:
        """Log-probability [N] of each sampled caption, with gradient."""
        head = self.layout.head()
        lengths = tuple(len(head) + len(row) for row in rows)
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        step = Packed(
            tokens=torch.tensor([token for row in rows for token in (*head, *row)]),
            lengths=lengths,
            positions=torch.cat([torch.arange(length) for length in lengths]),
            image_rows=starts[:, None] + 2 + torch.arange(self.layout.num_latents),
            latents=latents_NLD,
        )
        owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths))
        targets = torch.nonzero(step.positions >= len(head), as_tuple=True)[0]
        logits_LV = self.model.logits(self.model(step)[targets - 1]).float()
        chosen_L = logits_LV.log_softmax(-1).gather(1, step.tokens[targets][:, None])[:, 0]
        return torch.zeros(len(rows)).index_add(0, owner[targets], chosen_L)


def _only_pictures(features_NPW: Tensor, layout: Layout) -> Packed:
    """A packed record that carries pictures and nothing else, to ask the model for their latents."""
    count = features_NPW.shape[0]
    none = torch.full((count, layout.num_latents), -1)
    empty = torch.zeros(0, dtype=torch.long)
    return Packed(tokens=empty, lengths=(), positions=empty, image_rows=none, features=features_NPW)
