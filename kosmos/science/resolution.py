"""Claim: decay makes attention tell distances apart: xPos has a higher resolution than RoPE, also beyond its length.

Source: "A Length-Extrapolatable Transformer" (arXiv 2212.10554, equations 3, 8, 11 and table 3). In theory the score at
distance n is g[n], the sum over pairs of zeta^(n/B) cos(n theta); measured, it is the mean of the scores before softmax
at that distance. The models are those of the claim `extrapolation`, and so is the folder.
Table 3 holds a 1.08, which equation 3 cannot give (it is at most 1), so only orders can be held against the paper.
Legend: N tokens of a text, H heads, K head width, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.blockwise import first_seen
from kosmos.transformer.positions import XPOS_GAMMA, PositionBias, XPos
from kosmos.transformer.stack import Decoder

__all__ = ["Resolution", "measure", "resolution", "theoretical_score"]

PAPER_SCALE_BASE = 512  # B of the authors' code


def theoretical_score(distances_N: Tensor, *, head_dim: int, scale_base: int | None) -> Tensor:
    """g[n], in float64.

    Args:
        scale_base: B of xPos; None for RoPE, which does not decay.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float64)
    distances = distances_N.double()[:, None]
    turned = torch.cos(distances * 10000.0 ** (-pairs / head_dim))
    if scale_base is None:
        return turned.sum(dim=1)
    zeta = (pairs / head_dim + XPOS_GAMMA) / (1 + XPOS_GAMMA)
    return (zeta ** (distances / scale_base) * turned).sum(dim=1)


def resolution(scores_N: Tensor) -> float:
    """R(s) of equation 3, as printed: how much of the attention falls on a distance and not on the next one.

    Args:
        scores_N: s[0], s[1] ... s[N], before softmax.
    """
    weights = torch.softmax(scores_N.double(), dim=0)
    return float((weights[:-1] * (weights[:-1] - weights[1:])).sum())


class Resolution:
    """What was measured on some texts.

    Attributes:
        value: R for each head, averaged over heads, then over layers.
        curve: the mean score by distance, over texts, heads and layers.
    """

    def __init__(self, scores_LHN: Tensor) -> None:
        """
        Args:
            scores_LHN: the mean score of each layer and head by distance.
        """
        layers = [sum(resolution(head) for head in layer) / len(layer) for layer in scores_LHN]
        self.value = sum(layers) / len(layers)
        self.curve: list[float] = scores_LHN.mean(dim=(0, 1)).tolist()


def measure(model: Decoder, texts: Sequence[Tensor]) -> Resolution:
    """Read texts of one length with `model` and average its scores by distance.

    Under blockwise attention only pairs inside the window enter, and there are as many distances.
    """
    contexts = [_Recording(model, len(text)) for text in texts]
    with torch.inference_mode():
        for text, context in zip(texts, contexts, strict=True):
            model(model.embed(text), context.inner.positions_R, context)
    return Resolution(torch.stack([torch.stack(context.layers) for context in contexts]).mean(dim=0))


class _Recording:
    """An attention context that keeps the mean score by distance of each layer, [H, N]."""

    def __init__(self, model: Decoder, length: int) -> None:
        self.inner: PackedAttention = model.context([length])
        self.layers: list[Tensor] = []
        config, rotation = model.config, model.rotation
        # One anchor for the whole text: scores depend on distance alone, so this changes none of them.
        self.rotation = rotation and XPos(config.head_dim, length, rotation.scale_base)
        steps = torch.arange(length)
        first = torch.tensor([first_seen(m, config.causal_block) if config.causal_block else 0 for m in range(length)])
        self.visible = (steps[None, :] <= steps[:, None]) & (steps[None, :] >= first[:, None])
        self.distances = (steps[:, None] - steps[None, :])[self.visible]
        self.counts = torch.bincount(self.distances)

    def attend(
        self, layer: int, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, bias: PositionBias | None = None
    ) -> Tensor:
        """See `AttentionContext`."""
        positions, query, key = self.inner.positions_R, query_RHK, key_RHK
        if self.rotation is not None:
            query, key = self.rotation.rotate_queries(query, positions), self.rotation.rotate_keys(key, positions)
        scores_HQT = torch.einsum("qhk,thk->hqt", query, key) / math.sqrt(query.shape[-1])
        if bias is not None:
            scores_HQT = scores_HQT + bias(positions, positions)
        sums_HN = torch.zeros(query.shape[1], len(self.counts))
        sums_HN.index_add_(1, self.distances, scores_HQT[:, self.visible])
        self.layers.append(sums_HN / self.counts)
        return self.inner.attend(layer, query_RHK, key_RHK, value_RHK, bias)
