"""The Foundation Transformer (Magneto), usable alone: decoders, encoders and both together, over packed rows.

config: shapes. block: self-attention, cross-attention, feed-forward; norms: where its norms stand; feedforward: dense
or one for each modality, experts. initialisation: the gains of each assembly. stack, encoder, encoder_decoder: the
three assemblies. positions: schemes. attention: how rows attend. linear: the one matrix product.
Names resolve on first use (PEP 562), so importing this costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kosmos.transformer.attention import CrossAttention, PackedAttention
    from kosmos.transformer.cache import CachedSequence, PagedCache
    from kosmos.transformer.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ExpertsConfig
    from kosmos.transformer.encoder import Encoder
    from kosmos.transformer.encoder_decoder import EncoderDecoder, Memory
    from kosmos.transformer.paged_attention import PagedAttention
    from kosmos.transformer.stack import Decoder

__all__ = [
    "CachedSequence", "CrossAttention", "Decoder", "DecoderConfig", "Encoder", "EncoderConfig", "EncoderDecoder",
    "EncoderDecoderConfig", "ExpertsConfig", "Memory", "PackedAttention", "PagedAttention", "PagedCache",
]  # fmt: skip

_HOMES = {
    "CachedSequence": "cache",
    "CrossAttention": "attention",
    "Decoder": "stack",
    "DecoderConfig": "config",
    "Encoder": "encoder",
    "EncoderConfig": "config",
    "EncoderDecoder": "encoder_decoder",
    "EncoderDecoderConfig": "config",
    "ExpertsConfig": "config",
    "Memory": "encoder_decoder",
    "PackedAttention": "attention",
    "PagedAttention": "paged_attention",
    "PagedCache": "cache",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kosmos.transformer' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"kosmos.transformer.{_HOMES[name]}"), name)
    globals()[name] = value  # the next use is a plain attribute
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
