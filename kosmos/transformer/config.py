"""Shape of a Foundation Transformer decoder (Magneto) as plain values. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DecoderConfig", "Initialisation", "PositionScheme"]

PositionScheme = Literal["xpos", "sinusoidal"]
Initialisation = Literal["magneto", "released"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Widths in features, lengths in tokens.

    Attributes:
        positions: `xpos` (Kosmos-1 paper) or `sinusoidal` (the released Kosmos-2 weights).
        max_length: longest sequence the model was made for; sinusoids grow beyond it, generation warns.
        xpos_block: tokens that share one rotation anchor (a power of two).
        xpos_scale_base: B of the xPos decay zeta^(n/B), in tokens.
        initialisation: `magneto` (Xavier normal with Sub-LN gains) or `released` (Kosmos-2's own code).
        scale_embedding: multiply embeddings, image latents included, by sqrt(width).
    """

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    ffn_width: int
    positions: PositionScheme = "xpos"
    max_length: int = 2048
    xpos_block: int = 2048
    xpos_scale_base: int = 512
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    initialisation: Initialisation = "magneto"
    scale_embedding: bool = True
    padding_id: int = 1

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width={self.width} is not divisible by num_heads={self.num_heads}; change one of them")
        if self.positions == "xpos" and self.head_dim % 2:
            raise ValueError(f"xpos rotates pairs, but width/num_heads={self.head_dim} is odd")
        if self.positions not in ("xpos", "sinusoidal"):
            raise ValueError(f"unknown positions {self.positions!r}; known: xpos, sinusoidal")
        if self.initialisation not in ("magneto", "released"):
            raise ValueError(f"unknown initialisation {self.initialisation!r}; known: magneto, released")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads
