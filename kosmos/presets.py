"""Named models as plain values; a variant is `dataclasses.replace`, never a subclass. No torch here.

Sources: `kosmos1` from Kosmos-1 (arXiv 2302.14045, section 3.2 and table 17), `kosmos2` from Kosmos-2
(arXiv 2306.14824, section 3.3) and its released configuration. `base` is that shape at a third of a billion.
"""

from __future__ import annotations

from kosmos.config import KosmosConfig, TokenizerConfig
from kosmos.transformer.config import DecoderConfig
from vision.config import ResamplerConfig, TowerConfig

__all__ = ["PRESETS", "preset"]

_CLIP_L14 = TowerConfig(
    kind="clip", name="ViT-L-14-quickgelu", image_size=224, width=1024, num_features=257, resize="squash"
)
_CLIP_B16 = TowerConfig(kind="clip", name="ViT-B-16-quickgelu", image_size=224, width=768, num_features=197)
_LITE0 = TowerConfig(
    kind="efficientnet_lite0",
    name="tf_efficientnet_lite0",
    image_size=224,
    width=1280,
    num_features=49,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

PRESETS = {
    "tiny": KosmosConfig(
        name="tiny",
        tower=_LITE0,
        resampler=ResamplerConfig(num_latents=8, num_heads=4),
        decoder=DecoderConfig(
            vocab_size=8192,
            num_layers=6,
            width=256,
            num_heads=4,
            ffn_width=1024,
            max_length=1024,
            dropout=0.2,
            attention_dropout=0.0,
        ),
        tokenizer=TokenizerConfig(specials="kosmos1", num_words=8185),
    ),
    "base": KosmosConfig(
        name="base",
        tower=_CLIP_B16,
        resampler=ResamplerConfig(num_latents=64, num_heads=16, dropout=0.1),
        decoder=DecoderConfig(vocab_size=64_007, num_layers=12, width=1024, num_heads=16, ffn_width=4096),
        tokenizer=TokenizerConfig(specials="kosmos1"),
    ),
    "kosmos1": KosmosConfig(
        name="kosmos1",
        tower=_CLIP_L14,
        resampler=ResamplerConfig(num_latents=64, num_heads=32, dropout=0.1),
        decoder=DecoderConfig(vocab_size=64_007, num_layers=24, width=2048, num_heads=32, ffn_width=8192),
        tokenizer=TokenizerConfig(specials="kosmos1"),
    ),
    "kosmos2": KosmosConfig(
        name="kosmos2",
        tower=_CLIP_L14,
        resampler=ResamplerConfig(num_latents=64, num_heads=32, dropout=0.1),
        decoder=DecoderConfig(
            vocab_size=65_037,
            num_layers=24,
            width=2048,
            num_heads=32,
            ffn_width=8192,
            positions="sinusoidal",
            initialisation="released",
        ),
        tokenizer=TokenizerConfig(specials="kosmos2"),
    ),
}


def preset(name: str) -> KosmosConfig:
    """The configuration of that name.

    Raises: ValueError that lists the known names.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known presets: {', '.join(PRESETS)}")
    return PRESETS[name]
