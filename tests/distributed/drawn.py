"""Drawn models and rows for layouts over devices: two blocks of 32 channels, a two-layer CLIP eye on 16 x 16 pixels."""

from __future__ import annotations

from typing import Any

import torch

from kosmos.config import KosmosConfig, TokenizerConfig
from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.transformer.config import DecoderConfig
from vision.config import ResamplerConfig, TowerConfig

__all__ = ["drawn_config", "drawn_model", "sequences", "together"]

VOCABULARY, LATENTS, PIXELS = 50, 3, 16


def drawn_config(**changes: Any) -> KosmosConfig:
    """Nothing is dropped out; `changes` are of the decoder."""
    decoder: dict[str, Any] = {
        "num_layers": 2,
        "width": 32,
        "num_heads": 4,
        "ffn_width": 64,
        "xpos_block": 64,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        **changes,
    }
    return KosmosConfig(
        name="drawn",
        tower=TowerConfig(
            kind="clip",
            name="ViT-B-32-quickgelu",
            image_size=PIXELS,
            width=16,
            num_features=5,
            num_layers=2,
            num_heads=2,
            mlp_width=32,
            patch_size=8,
        ),
        resampler=ResamplerConfig(num_latents=LATENTS, num_heads=2, dropout=0.0),
        decoder=DecoderConfig(vocab_size=VOCABULARY, **decoder),
        tokenizer=TokenizerConfig(specials="kosmos2", num_words=VOCABULARY),
    )


def drawn_model(seed: int, **changes: Any) -> KosmosModel:
    """Norms and biases are drawn too, so that each of them matters."""
    torch.manual_seed(seed)
    model = KosmosModel(drawn_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def sequences() -> dict[str, list[Packed]]:
    """Four of each kind, one after the other: words alone, and captions of which every second has no picture."""
    draw = torch.Generator().manual_seed(5)
    return {
        "text": [_sequence(length, False, draw) for length in (11, 4, 9, 7)],
        "caption": [_sequence(length, place % 2 == 0, draw) for place, length in enumerate((8, 12, 6, 9))],
    }


def _sequence(length: int, pictured: bool, draw: torch.Generator) -> Packed:
    weight = torch.ones(length)
    weight[: LATENTS + 1 if pictured else 1] = 0
    pixels = torch.randint(0, 256, (1, 3, PIXELS, PIXELS), generator=draw, dtype=torch.uint8)
    return Packed(
        tokens=torch.randint(2, VOCABULARY, (length,), generator=draw),
        lengths=(length,),
        positions=torch.arange(length),
        image_rows=torch.arange(1, LATENTS + 1)[None] if pictured else None,
        pixels=pixels if pictured else None,
        loss_weight=weight,
    )


def together(packed: list[Packed]) -> Packed:
    """Sequences end to end."""
    starts = torch.tensor([0, *(len(one.tokens) for one in packed)]).cumsum(0).tolist()
    places = [one.image_rows + start for one, start in zip(packed, starts, strict=False) if one.image_rows is not None]
    return Packed(
        tokens=torch.cat([one.tokens for one in packed]),
        lengths=tuple(length for one in packed for length in one.lengths),
        positions=torch.cat([one.positions for one in packed]),
        image_rows=torch.cat(places) if places else None,
        pixels=torch.cat([one.pixels for one in packed if one.pixels is not None]) if places else None,
        loss_weight=torch.cat([one.loss_weight for one in packed if one.loss_weight is not None]),
    )
