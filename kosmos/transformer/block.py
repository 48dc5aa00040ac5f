"""One Sub-LN block (Magneto): attention and feed-forward, each normalised before it and once more inside it.

Source: Foundation Transformers (arXiv 2210.06423, equations 1 to 5). A block asks its context to attend and knows
nothing of batches, masks, caches or positions. Legend: R rows, D width, H heads, K head width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.attention import AttentionContext
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.feedforward import FeedForward
from kosmos.transformer.linear import Linear

__all__ = ["SelfAttention", "SubLNBlock"]


class SelfAttention(nn.Module):
    """Projections around the context's attention; the inner norm acts on the concatenated heads."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = Linear(config.width, config.width)
        self.k_proj = Linear(config.width, config.width)
        self.v_proj = Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.out_proj = Linear(config.width, config.width)

    def forward(self, x_RD: Tensor, layer: int, context: AttentionContext) -> Tensor:
        """[R, D] -> [R, D]; `layer` tells the context whose keys and values these are."""
        query_RHK, key_RHK, value_RHK = (
            projection(x_RD).unflatten(-1, (self.num_heads, -1))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        heads_RHK = context.attend(layer, query_RHK, key_RHK, value_RHK)
        mixed_RD: Tensor = self.out_proj(self.norm(heads_RHK.flatten(-2)))
        return mixed_RD


class SubLNBlock(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.feedforward_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.feedforward = FeedForward(config)
        self.dropout = config.dropout

    def forward(self, x_RD: Tensor, layer: int, context: AttentionContext) -> Tensor:
        """[R, D] -> [R, D]."""
        x_RD = x_RD + self._drop(self.attention(self.attention_norm(x_RD), layer, context))
        return x_RD + self._drop(self.feedforward(self.feedforward_norm(x_RD)))

    def _drop(self, x_RD: Tensor) -> Tensor:
        return F.dropout(x_RD, self.dropout, self.training)
