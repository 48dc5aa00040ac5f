"""The decoder: token embeddings, Sub-LN blocks, a last norm and the tied output head.

Sources: Foundation Transformers (arXiv 2210.06423) for the blocks, Kosmos-1 (arXiv 2302.14045) for the assembly.
Legend: R rows, D width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.attention import AttentionContext
from kosmos.transformer.block import SubLNBlock
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.initialisation import initialise_decoder
from kosmos.transformer.linear import Linear
from kosmos.transformer.positions import Sinusoids, rotation_of

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """A causal Foundation Transformer over packed rows.

    Embedding lookup and blocks are separate steps, because a multimodal model writes image latents in between.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width, padding_idx=config.padding_id)
        self.blocks = nn.ModuleList(SubLNBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.head = Linear(config.width, config.vocab_size, bias=False)
        self.tie_head()
        self.sinusoids = Sinusoids(config.width) if config.positions == "sinusoidal" else None
        self.rotation = rotation_of(config)
        if not self.embedding.weight.is_meta:
            initialise_decoder(self, num_layers=config.num_layers, embedding=self.embedding, rule=config.initialisation)

    def tie_head(self) -> None:
        """Let the output head be the embedding again (after `to_empty`, which separates them)."""
        self.head.weight = self.embedding.weight

    @property
    def hidden_dtype(self) -> torch.dtype:
        """Of activations, norms and caches; the matrices may be stored in another."""
        return self.norm.weight.dtype

    def embed(self, tokens_R: Tensor) -> Tensor:
        """Rows of the embedding table, not yet scaled: [R] -> [R, D]."""
        embedded_RD: Tensor = self.embedding(tokens_R)
        return embedded_RD.to(self.hidden_dtype)

    def forward(self, embedded_RD: Tensor, positions_R: Tensor, context: AttentionContext) -> Tensor:
        """Hidden states after the last norm.

        Args:
            embedded_RD: token embeddings and image latents as they are looked up, not yet scaled.
            positions_R: int, index of each row in its own sequence, from 0.
            context: how rows attend; it must know the same positions.
        """
        x_RD = embedded_RD * math.sqrt(self.config.width) if self.config.scale_embedding else embedded_RD
        if self.sinusoids is not None:
            x_RD = x_RD + self.sinusoids.at(positions_R).to(x_RD.dtype)
        x_RD = F.dropout(x_RD, self.config.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            x_RD = block(x_RD, layer, context)
        hidden_RD: Tensor = self.norm(x_RD)
        return hidden_RD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, D] -> [R, V]; ask only for the rows you need."""
        logits_RV: Tensor = self.head(hidden_RD)
        return logits_RV
