"""An encoder reads a source once; a decoder writes a target and looks back at the source in every layer.

Sources: Foundation Transformers (arXiv 2210.06423) for blocks and gains, DeepNet (arXiv 2203.00555) for DeepNorm.
Legend: S source rows, R target rows, H heads, K head width, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kosmos.transformer.attention import AttentionContext, CrossAttention, PackedAttention
from kosmos.transformer.config import EncoderDecoderConfig
from kosmos.transformer.encoder import Encoder
from kosmos.transformer.stack import Decoder

__all__ = ["EncoderDecoder", "Memory"]


@dataclass(frozen=True)
class Memory:
    """What a decoder keeps of its sources, whatever it writes: the work of an encoder, done once.

    Attributes:
        keys_values: keys and values [S, H, K] of each decoder layer, sequences end to end.
        lengths: rows of each source.
    """

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    lengths: tuple[int, ...]

    def read_by(self, query_lengths: Sequence[int]) -> CrossAttention:
        """The attention of that many target rows for each source."""
        return CrossAttention(self.keys_values, query_lengths=query_lengths, memory_lengths=self.lengths)


class EncoderDecoder(nn.Module):
    """Both sides, of equal width; the output head is the decoder's embedding."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, decoder_layers=config.decoder.num_layers)
        self.decoder = Decoder(config.decoder, encoder_layers=config.encoder.num_layers)
        self.tie()

    def tie(self) -> None:
        """Let tables that are one be one again (after `to_empty`, which separates them)."""
        self.decoder.tie_head()
        if self.config.share_embeddings and self.encoder.embedding is not None:
            self.encoder.embedding.weight = self.decoder.embedding.weight

    def remember(self, source_SD: Tensor, lengths: Sequence[int], *, kinds_S: Tensor | None = None) -> Memory:
        """Read sources.

        Args:
            source_SD: `encoder.embed(tokens)` or continuous rows, sequences end to end.
        """
        context = self.encoder.context(lengths)
        encoded_SD = self.encoder(source_SD, context.positions_R, context, kinds_R=kinds_S)
        return Memory(self.decoder.remember(encoded_SD), tuple(lengths))

    def write(
        self,
        target_R: Tensor,
        positions_R: Tensor,
        context: AttentionContext,
        memory: CrossAttention,
        *,
        kinds_R: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [R, D] of target tokens, whole or new rows over a cache; `decoder.logits` makes words of them.

        Args:
            memory: `Memory.read_by` the lengths that `context` has.
        """
        embedded_RD = self.decoder.embed(target_R)
        hidden_RD: Tensor = self.decoder(embedded_RD, positions_R, context, memory=memory, kinds_R=kinds_R)
        return hidden_RD

    def forward(
        self, source_SD: Tensor, source_lengths: Sequence[int], target_R: Tensor, target_lengths: Sequence[int]
    ) -> Tensor:
        """Hidden states [R, D] of whole targets, each reading the source of the same place."""
        context: PackedAttention = self.decoder.context(target_lengths)
        memory = self.remember(source_SD, source_lengths)
        return self.write(target_R, context.positions_R, context, memory.read_by(target_lengths))
