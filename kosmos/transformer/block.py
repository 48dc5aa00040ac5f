"""One block: self-attention, where there is a memory cross-attention, and a feed-forward, each joined to the stream.

Sources: Foundation Transformers (arXiv 2210.06423, equations 1 to 5), DeepNet (arXiv 2203.00555). A block asks its
context to attend and knows nothing of batches, masks, caches or positions; where its norms stand is `norms.py`'s.
Legend: R rows, M rows of memory, D width, H heads, K head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.attention import AttentionContext, CrossAttention
from kosmos.transformer.config import LayerShape
from kosmos.transformer.feedforward import build_feedforward
from kosmos.transformer.linear import Linear
from kosmos.transformer.norms import PLACEMENTS, Sublayer
from kosmos.transformer.positions import PositionBias
from kosmos.transformer.training_rows import add_dropped, dropped

__all__ = ["Beside", "Block", "MemoryAttention", "SelfAttention"]


class Beside(NamedTuple):
    """What a stack hands to each of its blocks beside rows and context.

    Attributes:
        bias: learned scores for distances, added by the context.
        memory: what cross-attention reads.
        kinds_R: int, modality of each row, for Multiway.
    """

    bias: PositionBias | None = None
    memory: CrossAttention | None = None
    kinds_R: Tensor | None = None


NOTHING = Beside()


class SelfAttention(nn.Module):
    """Projections around the context's attention; the inner norm of Sub-LN acts on the concatenated heads."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.q_proj = Linear(shape.width, shape.width)
        self.k_proj = Linear(shape.width, shape.width)
        self.v_proj = Linear(shape.width, shape.width)
        self.norm = PLACEMENTS[shape.norms].inner(shape.width, shape.layer_norm_eps)
        self.out_proj = Linear(shape.width, shape.width)

    def forward(self, x_RD: Tensor, layer: int, context: AttentionContext, bias: PositionBias | None = None) -> Tensor:
        """[R, D] -> [R, D]; `layer` tells the context whose keys and values these are."""
        query_RHK, key_RHK, value_RHK = (
            projection(x_RD).unflatten(-1, (self.num_heads, -1))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        heads_RHK = context.attend(layer, query_RHK, key_RHK, value_RHK, bias)
        mixed_RD: Tensor = self.out_proj(self.norm(heads_RHK.flatten(-2)))
        return mixed_RD


class MemoryAttention(nn.Module):
    """Projections around cross-attention; it has no inner norm, for Sub-LN neither."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.q_proj = Linear(shape.width, shape.width)
        self.k_proj = Linear(shape.width, shape.width)
        self.v_proj = Linear(shape.width, shape.width)
        self.out_proj = Linear(shape.width, shape.width)

    def remember(self, memory_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [M, H, K] of an encoder's hidden states: once, however many steps read them."""
        heads = (self.num_heads, -1)
        return self.k_proj(memory_MD).unflatten(-1, heads), self.v_proj(memory_MD).unflatten(-1, heads)

    def forward(self, x_RD: Tensor, layer: int, memory: CrossAttention) -> Tensor:
        """[R, D] -> [R, D]."""
        heads_RHK = memory.attend(layer, self.q_proj(x_RD).unflatten(-1, (self.num_heads, -1)))
        mixed_RD: Tensor = self.out_proj(heads_RHK.flatten(-2))
        return mixed_RD


class Block(nn.Module):
    """Two sublayers, three with cross-attention; training leaves some out for some rows (stochastic depth).

    A dropped path is drawn for each row, not each sequence: a block does not know which rows belong together.
    """

    cross_attention: MemoryAttention | None

    def __init__(self, shape: LayerShape, layer: int, *, alpha: float = 1.0, cross: bool = False) -> None:
        """
        Args:
            layer: from 0; it decides the rate of dropped paths, from 0 in the first to `drop_path` in the last, and
                whether the feed-forward is sparse.
            alpha: of the residual stream (DeepNorm).
            cross: there is a memory to read.
        """
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.layer_norm_eps)
        self.attention = SelfAttention(shape)
        if cross:
            self.cross_attention_norm = nn.LayerNorm(shape.width, eps=shape.layer_norm_eps)
            self.cross_attention = MemoryAttention(shape)
        else:
            self.cross_attention = None
        self.feedforward_norm = nn.LayerNorm(shape.width, eps=shape.layer_norm_eps)
        self.feedforward = build_feedforward(shape, layer)
        self.residual, self.alpha = PLACEMENTS[shape.norms].residual, alpha
        self.dropout = shape.dropout
        self.drop_path = shape.drop_path * layer / max(shape.num_layers - 1, 1)

    def forward(self, x_RD: Tensor, layer: int, context: AttentionContext, beside: Beside = NOTHING) -> Tensor:
        """[R, D] -> [R, D]."""
        x_RD = self._join(x_RD, self.attention_norm, lambda u: self.attention(u, layer, context, beside.bias))
        reader, memory = self.cross_attention, beside.memory
        if reader is not None and memory is not None:
            x_RD = self._join(x_RD, self.cross_attention_norm, lambda u: reader(u, layer, memory))
        return self._join(x_RD, self.feedforward_norm, lambda u: self.feedforward(u, beside.kinds_R))

    def _join(self, x_RD: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
        return self.residual(x_RD, norm, sublayer, self.alpha, self._add)

    def _add(self, stream_RD: Tensor, x_RD: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return add_dropped(stream_RD, x_RD, self.dropout, self.training)
        x_RD = dropped(x_RD, self.dropout, self.training)
        return stream_RD + x_RD * F.dropout(torch.ones_like(x_RD[:, :1]), self.drop_path)
