"""The resampler: a picture's features become a fixed number of latents, which stand in the text like words.

Source: Kosmos-1 paper, section 2.2; the release's `XConnector`; `Kosmos2ImageToTextProjection` of transformers.
Shapes: N images, P features of a picture, W tower width, L latents, S = P + L keys, H heads, K head width, D width.
Knows nothing of pictures or of the decoder: features in, latents out, every picture by itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kosmos.transformer.linear import Linear
from vision.config import ResamplerConfig

__all__ = ["Resampler"]


class Resampler(nn.Module):
    """One attention from learned queries to a picture's features and the queries themselves.

    There is no residual, no norm and no feed-forward: what attention returns goes straight into the text.

    Args:
        features_width: channels of a tower's feature (W).
        width: channels of a latent (D), the decoder's width.
    Raises: ValueError if `width` is not divisible by the number of heads.
    """

    def __init__(self, features_width: int, width: int, config: ResamplerConfig) -> None:
        super().__init__()
        if width % config.num_heads:
            raise ValueError(f"resampler width={width} is not divisible by num_heads={config.num_heads}; change one")
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.latent_query = nn.Parameter(torch.empty(config.num_latents, width))
        self.dense = Linear(features_width, width)
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as the release does: fairseq's attention for packed q, k, v; torch's default for `dense`."""
        nn.init.normal_(self.latent_query)
        self.dense.reset_parameters()
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.reset_parameters()  # its bias keeps torch's default
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, features_NPW: Tensor) -> Tensor:
        """Latents [N, L, D] of features [N, P, W], in the parameters' dtype."""
        num_images = features_NPW.shape[0]
        hidden_NPD = self.dense(features_NPW)
        queries_NHLK = self._heads(self.q_proj(self.latent_query)[None]).expand(num_images, -1, -1, -1)
        mixed_NHLK = F.scaled_dot_product_attention(
            queries_NHLK,
            self._keys(self.k_proj, hidden_NPD),
            self._keys(self.v_proj, hidden_NPD),
            dropout_p=self.dropout if self.training else 0.0,
        )
        output_NLD: Tensor = self.out_proj(mixed_NHLK.transpose(1, 2).flatten(2))
        return output_NLD

    def _keys(self, projection: Linear, hidden_NPD: Tensor) -> Tensor:
        """Project features, then latents. The latents are the same for every picture, so they are projected once."""
        latents_NLD = projection(self.latent_query).expand(hidden_NPD.shape[0], -1, -1)
        return self._heads(torch.cat((projection(hidden_NPD), latents_NLD), dim=1))

    def _heads(self, hidden_NSD: Tensor) -> Tensor:
        num_images, num_rows, width = hidden_NSD.shape
        return hidden_NSD.view(num_images, num_rows, self.num_heads, width // self.num_heads).transpose(1, 2)
