"""Small random models that tests build in a moment: the real network and processor, toy sizes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.config import KosmosConfig, TokenizerConfig
from kosmos.model import KosmosModel
from kosmos.pretrained import Kosmos
from kosmos.processor import Processor
from kosmos.transformer.config import DecoderConfig
from text.tokenizer import Tokenizer
from vision.config import ResamplerConfig, TowerConfig

__all__ = ["picture", "small_config", "small_kosmos"]


def small_config(
    tokenizer: Tokenizer, *, positions: Literal["xpos", "sinusoidal"] = "xpos", xpos_block: int = 64
) -> KosmosConfig:
    """Two layers of 64 channels, a two-layer CLIP eye on 32 x 32 pixels, 4 latents a picture."""
    return KosmosConfig(
        name="small",
        tower=TowerConfig(
            kind="clip",
            name="ViT-B-32-quickgelu",
            image_size=32,
            width=32,
            num_features=17,
            num_layers=2,
            num_heads=2,
            mlp_width=64,
            patch_size=8,
        ),
        resampler=ResamplerConfig(num_latents=4, num_heads=2),
        decoder=DecoderConfig(
            vocab_size=tokenizer.vocab_size,
            num_layers=2,
            width=64,
            num_heads=4,
            ffn_width=128,
            positions=positions,
            xpos_block=xpos_block,
            max_length=512,
        ),
        tokenizer=TokenizerConfig(specials=tokenizer.specials, num_words=tokenizer.num_words),
    )


def small_kosmos(
    tokenizer: Tokenizer,
    *,
    positions: Literal["xpos", "sinusoidal"] = "xpos",
    xpos_block: int = 64,
    seed: int = 0,
    sharpness: float = 8.0,
) -> Kosmos:
    """A random model whose choices are clear-cut: embeddings are scaled by `sharpness`, so logits differ widely."""
    torch.manual_seed(seed)
    config = small_config(tokenizer, positions=positions, xpos_block=xpos_block)
    network = KosmosModel(config).eval()
    with torch.no_grad():
        network.decoder.embedding.weight.mul_(sharpness)
    return Kosmos(
        network,
        Processor(tokenizer, config),
        name="small",
        chat_template=DEFAULT_CHAT_TEMPLATE,
        tokenizer_model=tokenizer.model,
    )


def picture(seed: int, *, width: int = 40, height: int = 30) -> Image.Image:
    """Coloured noise: no two seeds look alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
