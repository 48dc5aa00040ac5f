"""What follows attention in a block: a dense feed-forward, one for each modality (Multiway), or experts.

Sources: Foundation Transformers (arXiv 2210.06423, equations 3 to 5), where a norm stands behind the activation for
Sub-LN; BEiT-3 (arXiv 2208.10442) for Multiway. A further kind is a class and a line of `FEEDFORWARDS`.
Legend: R rows, D width, F width of the feed-forward.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.config import ExpertsConfig, LayerShape
from kosmos.transformer.linear import Linear
from kosmos.transformer.norms import PLACEMENTS
from kosmos.transformer.training_rows import activated_norm

__all__ = ["FEEDFORWARDS", "FeedForward", "Kind", "Multiway", "build_feedforward"]


class FeedForward(nn.Module):
    """x -> W2 norm(gelu(W1 x)); GELU by the exact error function, the norm for Sub-LN alone."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.fc1 = Linear(shape.width, shape.ffn_width)
        self.norm = PLACEMENTS[shape.norms].inner(shape.ffn_width, shape.layer_norm_eps)
        self.fc2 = Linear(shape.ffn_width, shape.width)
        self.activation_dropout = shape.activation_dropout

    def forward(self, x_RD: Tensor, kinds_R: Tensor | None = None) -> Tensor:
        """[R, D] -> [R, D]; all kinds of rows alike."""
        wide_RF: Tensor = self.fc1(x_RD)
        if self.training and self.activation_dropout:
            normed_RF = self.norm(F.dropout(F.gelu(wide_RF), self.activation_dropout))
        else:
            normed_RF = activated_norm(wide_RF, self.norm)
        narrow_RD: Tensor = self.fc2(normed_RF)
        return narrow_RD


class Multiway(nn.Module):
    """One feed-forward for each modality; a row goes through its own."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.modalities = nn.ModuleList(FeedForward(shape) for _ in range(shape.num_modalities))

    def forward(self, x_RD: Tensor, kinds_R: Tensor | None = None) -> Tensor:
        """[R, D] -> [R, D].

        Args:
            kinds_R: int, modality of each row, from 0.
        Raises: ValueError without `kinds_R`, or if it names a modality there is not.
        """
        count = len(self.modalities)
        if kinds_R is None:
            raise ValueError(f"each row goes to one of {count} modalities; say which by kinds_R")
        out_RD, taken = torch.empty_like(x_RD), 0
        for kind, feedforward in enumerate(self.modalities):
            rows = (kinds_R == kind).nonzero().flatten()
            # No row is no reason to skip: its weights then get a gradient of zero, which data parallel training needs.
            out_RD = out_RD.index_copy(0, rows, feedforward(x_RD[rows]))
            taken += rows.shape[0]
        if taken != x_RD.shape[0]:
            raise ValueError(f"kinds_R names modalities other than 0 to {count - 1}")
        return out_RD


def _experts(shape: LayerShape) -> nn.Module:
    # Experts hold feed-forwards themselves, so their file imports this one.
    build: Callable[[LayerShape, ExpertsConfig | None], nn.Module]
    build = import_module("kosmos.transformer.experts").Experts
    return build(shape, shape.experts)


def _is_sparse(shape: LayerShape, layer: int) -> bool:
    return shape.experts is not None and (layer + 1) % shape.experts.every == 0


class Kind(NamedTuple):
    """One kind of feed-forward.

    Attributes:
        serves: (shape, layer from 0) -> whether this layer has it.
        build: shape -> a module with `forward(x_RD, kinds_R=None) -> [R, D]`.
    """

    serves: Callable[[LayerShape, int], bool]
    build: Callable[[LayerShape], nn.Module]


FEEDFORWARDS: dict[str, Kind] = {  # the first that serves a layer is built
    "experts": Kind(_is_sparse, _experts),
    "multiway": Kind(lambda shape, layer: shape.num_modalities > 1, Multiway),
    "dense": Kind(lambda shape, layer: True, FeedForward),
}


def build_feedforward(shape: LayerShape, layer: int) -> nn.Module:
    """The feed-forward of layer `layer` (from 0), by the table `FEEDFORWARDS`."""
    return next(kind for kind in FEEDFORWARDS.values() if kind.serves(shape, layer)).build(shape)
