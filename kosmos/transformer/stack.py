"""A stack of blocks, and the decoder that is made of one: embeddings, positions, blocks, last norm, tied output head.

Sources: Foundation Transformers (arXiv 2210.06423) for the blocks, Kosmos-1 (arXiv 2302.14045) for the assembly.
Legend: R rows, M rows of memory, D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kosmos.transformer.attention import AttentionContext, CrossAttention, PackedAttention
from kosmos.transformer.block import Beside, Block
from kosmos.transformer.config import DecoderConfig, EncoderConfig
from kosmos.transformer.initialisation import decoder_scales, initialise
from kosmos.transformer.linear import Linear
from kosmos.transformer.norms import PLACEMENTS
from kosmos.transformer.positions import Positions, XPos, build_positions
from kosmos.transformer.training_rows import dropped

__all__ = ["Decoder", "build_blocks", "hidden_dtype", "run_blocks"]


def build_blocks(config: DecoderConfig | EncoderConfig, *, alpha: float, cross: bool = False) -> nn.ModuleList:
    """The blocks of one side; arguments as `Block` has them."""
    return nn.ModuleList(Block(config, layer, alpha=alpha, cross=cross) for layer in range(config.num_layers))


def run_blocks(
    blocks: nn.ModuleList,
    config: DecoderConfig | EncoderConfig,
    embedded_RD: Tensor,
    added_RD: Tensor | None,
    context: AttentionContext,
    beside: Beside,
) -> Tensor:
    """Scale rows, add positions, drop out, and pass through all blocks: hidden states [R, D] before the last norm."""
    x_RD = embedded_RD * math.sqrt(config.width) if config.scale_embedding else embedded_RD
    if added_RD is not None:
        x_RD = x_RD + added_RD.to(x_RD.dtype)
    x_RD = dropped(x_RD, config.dropout, blocks.training)
    for layer, block in enumerate(blocks):
        x_RD = block(x_RD, layer, context, beside)
    return x_RD


def hidden_dtype(blocks: nn.ModuleList) -> torch.dtype:
    """Of activations, norms and caches; the matrices may be stored in another."""
    first = blocks[0]
    assert isinstance(first, Block)
    return first.attention_norm.weight.dtype


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
        self.blocks = build_blocks(config, alpha=scales.alpha, cross=encoder_layers > 0)
        self.norm = PLACEMENTS[config.norms].last(config.width, config.layer_norm_eps)
        self.head = Linear(config.width, config.vocab_size, bias=False)
        self.tie_head()
        self.positions: Positions = build_positions(config)
        if not self.embedding.weight.is_meta:
            initialise(self, embedding=self.embedding, scales=scales, rule=config.initialisation)

    def tie_head(self) -> None:
        """Let the output head be the embedding again (after `to_empty`, which separates them)."""
        self.head.weight = self.embedding.weight

    @property
    def hidden_dtype(self) -> torch.dtype:
        """Of activations, norms and caches; the matrices may be stored in another."""
        return hidden_dtype(self.blocks)

    @property
    def rotation(self) -> XPos | None:
        """What an attention context must turn queries and keys by."""
        return self.positions.rotation

    def context(self, lengths: Sequence[int]) -> PackedAttention:
        """How whole sequences of these lengths attend, dropout included while training."""
        return PackedAttention(
            lengths,
            causal_block=self.config.causal_block,
            rotation=self.rotation,
            dropout=self.config.attention_dropout if self.training else 0.0,
            device=self.embedding.weight.device,
        )

    def embed(self, tokens_R: Tensor) -> Tensor:
        """Rows of the embedding table, not yet scaled: [R] -> [R, D]."""
        embedded_RD: Tensor = self.embedding(tokens_R)
        return embedded_RD.to(self.hidden_dtype)

    def remember(self, encoded_MD: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Keys and values [M, H, K] of an encoder's hidden states, for each layer's cross-attention."""
        readers = [block.cross_attention for block in self.blocks if isinstance(block, Block)]
        return tuple(reader.remember(encoded_MD) for reader in readers if reader is not None)

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
            given = "no memory to read" if memory is None else "a memory that it does not read"
            raise ValueError(f"a decoder behind {self.encoder_layers} encoder layers was given {given}")
        beside = Beside(bias=self.positions.bias, memory=memory, kinds_R=kinds_R)
        added_RD = self.positions.added(positions_R)
        hidden_RD: Tensor = self.norm(run_blocks(self.blocks, self.config, embedded_RD, added_RD, context, beside))
        return hidden_RD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, D] -> [R, V]; ask only for the rows you need."""
        logits_RV: Tensor = self.head(hidden_RD)
        return logits_RV
