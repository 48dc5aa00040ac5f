"""The decoder: token embeddings, blocks, a last norm where the norms ask one, and the tied output head.

Sources: Foundation Transformers (arXiv 2210.06423) for the blocks, Kosmos-1 (arXiv 2302.14045) for the assembly.
Legend: R rows, M rows of memory, D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.attention import AttentionContext, CrossAttention
from kosmos.transformer.block import Beside, Block
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.initialisation import decoder_scales, initialise
from kosmos.transformer.linear import Linear
from kosmos.transformer.norms import PLACEMENTS
from kosmos.transformer.positions import Sinusoids, rotation_of

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """A causal Foundation Transformer over packed rows; it may read the memory of an encoder.

    Embedding lookup and blocks are separate steps, because a multimodal model writes image latents in between.
    """

    def __init__(self, config: DecoderConfig, *, encoder_layers: int = 0) -> None:
        """
        Args:
            encoder_layers: of the encoder whose memory each block reads; 0: there is none, and no cross-attention.
        """
        super().__init__()
        self.config, self.encoder_layers = config, encoder_layers
        scales = decoder_scales(config.norms, config.num_layers, encoder_layers)
        self.embedding = nn.Embedding(config.vocab_size, config.width, padding_idx=config.padding_id)
        self.blocks = nn.ModuleList(
            Block(config, layer, alpha=scales.alpha, cross=encoder_layers > 0) for layer in range(config.num_layers)
        )
        self.norm = PLACEMENTS[config.norms].last(config.width, config.layer_norm_eps)
        self.head = Linear(config.width, config.vocab_size, bias=False)
        self.tie_head()
        self.sinusoids = Sinusoids(config.width) if config.positions == "sinusoidal" else None
        self.rotation = rotation_of(config)
        if not self.embedding.weight.is_meta:
            initialise(self, embedding=self.embedding, scales=scales, rule=config.initialisation)

    def tie_head(self) -> None:
        """Let the output head be the embedding again (after `to_empty`, which separates them)."""
        self.head.weight = self.embedding.weight

    @property
    def hidden_dtype(self) -> torch.dtype:
        """Of activations, norms and caches; the matrices may be stored in another."""
        first = self.blocks[0]
        assert isinstance(first, Block)
        return first.attention_norm.weight.dtype

    def embed(self, tokens_R: Tensor) -> Tensor:
        """Rows of the embedding table, not yet scaled: [R] -> [R, D]."""
        embedded_RD: Tensor = self.embedding(tokens_R)
        return embedded_RD.to(self.hidden_dtype)

    def remember(self, encoded_MD: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Keys and values [M, H, K] of an encoder's hidden states for each layer's cross-attention."""
        return tuple(block.cross_attention.remember(encoded_MD) for block in self.blocks)  # type: ignore[union-attr, operator]

    def forward(
        self,
        embedded_RD: Tensor,
        positions_R: Tensor,
        context: AttentionContext,
        *,
        memory: CrossAttention | None = None,
        kinds_R: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last norm.

        Args:
            embedded_RD: token embeddings and image latents as they are looked up, not yet scaled.
            positions_R: int, index of each row in its own sequence, from 0.
            context: how rows attend; it must know the same positions.
            memory: what cross-attention reads.
            kinds_R: int, modality of each row, where `num_modalities` is more than 1.
        Raises: ValueError for a memory that no block reads, or none where they do.
        """
        if (memory is None) != (self.encoder_layers == 0):
            raise ValueError(
                f"a decoder behind {self.encoder_layers} encoder layers was given "
                f"{'no memory to read' if memory is None else 'a memory that it does not read'}"
            )
        x_RD = embedded_RD * math.sqrt(self.config.width) if self.config.scale_embedding else embedded_RD
        if self.sinusoids is not None:
            x_RD = x_RD + self.sinusoids.at(positions_R).to(x_RD.dtype)
        x_RD = F.dropout(x_RD, self.config.dropout, self.training)
        beside = Beside(memory=memory, kinds_R=kinds_R)
        for layer, block in enumerate(self.blocks):
            x_RD = block(x_RD, layer, context, beside)
        hidden_RD: Tensor = self.norm(x_RD)
        return hidden_RD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, D] -> [R, V]; ask only for the rows you need."""
        logits_RV: Tensor = self.head(hidden_RD)
        return logits_RV
