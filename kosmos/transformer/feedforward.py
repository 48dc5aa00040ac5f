"""The dense feed-forward of a Sub-LN block: widen, GELU, normalise, narrow.

Source: Foundation Transformers (arXiv 2210.06423, equations 3 to 5). The norm stands after the activation.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.linear import Linear

__all__ = ["FeedForward"]


class FeedForward(nn.Module):
    """x -> W2 norm(gelu(W1 x)); GELU by the exact error function."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.width, config.ffn_width)
        self.norm = nn.LayerNorm(config.ffn_width, eps=config.layer_norm_eps)
        self.fc2 = Linear(config.ffn_width, config.width)
        self.activation_dropout = config.activation_dropout

    def forward(self, x_RD: Tensor) -> Tensor:
        """[R, D] -> [R, D]."""
        wide_RF = F.dropout(F.gelu(self.fc1(x_RD)), self.activation_dropout, self.training)
        narrow_RD: Tensor = self.fc2(self.norm(wide_RF))
        return narrow_RD
