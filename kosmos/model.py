"""The Kosmos network: a tower looks, a resampler condenses, a decoder reads pictures and words as one stream.

Source: Kosmos-1 (arXiv 2302.14045, section 2), Kosmos-2 (arXiv 2306.14824).
Knows nothing of text or files: it eats `Packed`.
Legend: R rows, N images, L latents of an image, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kosmos.config import KosmosConfig
from kosmos.packed import Packed
from kosmos.transformer.attention import AttentionContext, PackedAttention
from kosmos.transformer.linear import set_deterministic
from kosmos.transformer.stack import Decoder
from vision.encoder import build_tower
from vision.resampler import Resampler

__all__ = ["KosmosModel"]


class KosmosModel(nn.Module):
    """Tower, resampler and decoder; every number comes from `config`."""

    def __init__(self, config: KosmosConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = build_tower(config.tower)
        self.resampler = Resampler(config.tower.width, config.decoder.width, config.resampler)
        self.decoder = Decoder(config.decoder)
        self.deterministic = False

    def set_deterministic(self, *, on: bool) -> None:
        """Make every row a function of its own sequence alone, to the bit (float32; slow)."""
        self.deterministic = on
        set_deterministic(self, on)

    def encode_images(self, packed: Packed) -> Tensor | None:
        """Latents [N, L, D] of the pictures in `packed`, from whatever form they come in; None without pictures."""
        if packed.latents is not None:
            return packed.latents
        if packed.features is not None:
            return self._resample(packed.features)
        if packed.pixels is None:
            return None
        if self.deterministic:
            return torch.cat([self._resample(self.tower(pixels[None])) for pixels in packed.pixels])
        return self._resample(self.tower(packed.pixels))

    def _resample(self, features_NPW: Tensor) -> Tensor:
        latents_NLD: Tensor = self.resampler(features_NPW.to(self.resampler.dense.weight.dtype))
        return latents_NLD

    def embed(self, packed: Packed) -> Tensor:
        """Token embeddings [R, D] with image latents written over their rows."""
        embedded_RD = self.decoder.embed(packed.tokens)
        latents_NLD = self.encode_images(packed)
        if latents_NLD is None or packed.image_rows is None:
            return embedded_RD
        rows, latents = packed.image_rows.flatten(), latents_NLD.flatten(0, 1).to(embedded_RD.dtype)
        if latents.shape[0] != rows.shape[0]:
            raise ValueError(f"{latents.shape[0]} image latents for {rows.shape[0]} image rows; the config disagrees")
        here = rows >= 0
        return embedded_RD.index_copy(0, rows[here], latents[here])

    def forward(self, packed: Packed, context: AttentionContext | None = None) -> Tensor:
        """Hidden states [R, D] of every row, after the last norm.

        Args:
            context: how rows attend; whole packed sequences where None.
        """
        if context is None:
            context = PackedAttention(
                packed.lengths,
                causal_block=self.config.decoder.causal_block,
                rotation=self.decoder.rotation,
                dropout=self.config.decoder.attention_dropout if self.training else 0.0,
                tiled=self.deterministic,
                device=packed.tokens.device,
            )
        hidden_RD: Tensor = self.decoder(self.embed(packed), packed.positions, context)
        return hidden_RD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, D] -> [R, V]; pick the rows you need first."""
        return self.decoder.logits(hidden_RD)
