"""The encoder: rows that all see each other, be they words, patches of a picture or frames of sound.

Source: Foundation Transformers (arXiv 2210.06423), whose point is that one block serves them all. What makes rows of
`width` from pixels or waves stands outside. Legend: R rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kosmos.transformer.attention import AttentionContext, PackedAttention
from kosmos.transformer.block import Beside
from kosmos.transformer.config import EncoderConfig
from kosmos.transformer.initialisation import encoder_scales, initialise
from kosmos.transformer.norms import PLACEMENTS
from kosmos.transformer.positions import Positions, build_positions
from kosmos.transformer.stack import build_blocks, hidden_dtype, run_blocks

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """A bidirectional Foundation Transformer over packed rows."""

    embedding: nn.Embedding | None

    def __init__(self, config: EncoderConfig, *, decoder_layers: int = 0) -> None:
        """
        Args:
            decoder_layers: of the decoder that reads this encoder, on which its scales depend; 0: it stands alone.
        """
        super().__init__()
        self.config = config
        scales = encoder_scales(config.norms, config.num_layers, decoder_layers)
        words = config.vocab_size
        self.embedding = None if words is None else nn.Embedding(words, config.width, padding_idx=config.padding_id)
        self.blocks = build_blocks(config, alpha=scales.alpha)
        self.norm = PLACEMENTS[config.norms].last(config.width, config.layer_norm_eps)
        self.positions: Positions = build_positions(config)
        if not next(self.blocks.parameters()).is_meta:
            initialise(self, embedding=self.embedding, scales=scales, rule=config.initialisation)

    @property
    def hidden_dtype(self) -> torch.dtype:
        """Of activations and norms; the matrices may be stored in another."""
        return hidden_dtype(self.blocks)

    def context(self, lengths: Sequence[int]) -> PackedAttention:
        """How whole sequences of these lengths attend, dropout included while training.

        Raises: ValueError if one is longer than the block whose rows a rotation turns alike.
        """
        rotation, longest = self.positions.rotation, max(lengths, default=0)
        if rotation is not None and longest > rotation.block:
            raise ValueError(
                f"a sequence has {longest} rows, but the rotation has one anchor for max_length={rotation.block};"
                " raise max_length, which changes no weight"
            )
        return PackedAttention(
            lengths,
            causal=False,
            rotation=rotation,
            dropout=self.config.attention_dropout if self.training else 0.0,
            device=next(self.blocks.parameters()).device,
        )

    def embed(self, tokens_R: Tensor) -> Tensor:
        """Rows of the embedding table, not yet scaled: [R] -> [R, D].

        Raises: ValueError if this encoder knows no words.
        """
        if self.embedding is None:
            raise ValueError("an encoder without a vocabulary is handed rows; set vocab_size to give it words")
        embedded_RD: Tensor = self.embedding(tokens_R)
        return embedded_RD.to(self.hidden_dtype)

    def forward(
        self, embedded_RD: Tensor, positions_R: Tensor, context: AttentionContext, *, kinds_R: Tensor | None = None
    ) -> Tensor:
        """Hidden states [R, D] after the last norm, where there is one.

        Args:
            embedded_RD: words as they are looked up or continuous rows, not yet scaled.
            positions_R: int, index of each row in its own sequence, from 0.
            context: how rows attend; `self.context(lengths)` for whole sequences.
            kinds_R: int, modality of each row, where `num_modalities` is more than 1.
        """
        beside = Beside(bias=self.positions.bias, kinds_R=kinds_R)
        added_RD = self.positions.added(positions_R)
        hidden_RD: Tensor = self.norm(run_blocks(self.blocks, self.config, embedded_RD, added_RD, context, beside))
        return hidden_RD
