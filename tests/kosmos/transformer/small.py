"""A small random decoder and the ways to run it: packed, alone, cached in chunks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.cache import CachedSequence, PagedCache
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.linear import set_deterministic
from kosmos.transformer.paged_attention import PagedAttention
from kosmos.transformer.stack import Decoder

__all__ = ["cache_for", "run_cached", "run_packed", "small_config", "small_decoder", "words"]

BLOCK = 32  # of xPos, so that short sequences cross several


def small_config(positions: Literal["xpos", "sinusoidal"] = "xpos", block: int = BLOCK) -> DecoderConfig:
    """Two layers of four heads of eight channels; xPos decays fast, so that distances matter."""
    return DecoderConfig(
        vocab_size=50,
        num_layers=2,
        width=32,
        num_heads=4,
        ffn_width=48,
        positions=positions,
        xpos_block=block,
        xpos_scale_base=64,
    )


@functools.cache
def small_decoder(
    positions: Literal["xpos", "sinusoidal"] = "xpos", *, deterministic: bool = False, block: int = BLOCK
) -> Decoder:
    """In eval mode, the same weights whatever the switches; norms are not identity."""
    torch.manual_seed(1)
    decoder = Decoder(small_config(positions, block)).eval().requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    set_deterministic(decoder, deterministic)
    return decoder


def words(length: int, seed: int) -> Tensor:
    """A sequence of ids."""
    return torch.randint(2, 50, (length,), generator=torch.Generator().manual_seed(seed))


def run_packed(decoder: Decoder, sequences: Sequence[Tensor], *, tiled: bool = False) -> list[Tensor]:
    """Hidden states of whole sequences in one forward."""
    lengths = [len(sequence) for sequence in sequences]
    context = PackedAttention(lengths, causal_block=decoder.config.causal_block, rotation=decoder.rotation, tiled=tiled)
    hidden = decoder(decoder.embedding(torch.cat(list(sequences))), context.positions_R, context)
    return list(hidden.split(lengths))


def run_cached(
    decoder: Decoder,
    cache: PagedCache,
    stored: Sequence[CachedSequence],
    pieces: Sequence[Tensor],
    *,
    tiled: bool = False,
) -> list[Tensor]:
    """Hidden states of new rows behind what each sequence has stored; they are stored, too."""
    lengths = [len(piece) for piece in pieces]
    context = PagedAttention(cache, stored, lengths, rotation=decoder.rotation, tiled=tiled)
    hidden = decoder(decoder.embedding(torch.cat(list(pieces))), context.positions_R, context)
    context.advance()
    return list(hidden.split(lengths))


def cache_for(decoder: Decoder, *, num_pages: int = 64, page_size: int = 16) -> PagedCache:
    """An empty cache of the decoder's shape."""
    config = decoder.config
    return PagedCache(
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        num_pages=num_pages,
        page_size=page_size,
        causal_block=config.causal_block,
    )
