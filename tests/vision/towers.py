"""Small random towers for the tests, and transformers' Kosmos-2 tower as the parent model uses it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import Kosmos2VisionConfig
from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2VisionModel

from vision.config import TowerConfig

SMALL_CLIP = TowerConfig(
    kind="clip",
    name="ViT-L-14-quickgelu",
    image_size=28,
    width=48,
    num_features=17,
    num_layers=3,
    num_heads=4,
    mlp_width=100,
    patch_size=7,
)


def small_clip(**changes: object) -> TowerConfig:
    return replace(SMALL_CLIP, **changes)  # type: ignore[arg-type]


def pictures(num_images: int = 3, side: int = 28, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_images, 3, side, side), dtype=torch.uint8, generator=generator)


def scramble(module: torch.nn.Module, seed: int = 0) -> None:
    """Random biases and norms too: as built they are zeros and ones, which would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)


def huggingface_tower(config: TowerConfig) -> Kosmos2VisionModel:
    """The peer of a CLIP config of ours, with random weights."""
    tower = Kosmos2VisionModel(
        Kosmos2VisionConfig(
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
        )
    )
    scramble(tower)
    return tower.eval()


def huggingface_features(tower: Kosmos2VisionModel, pixels_N3HW: Tensor, config: TowerConfig) -> Tensor:
    """What Kosmos-2 hands to its resampler: the last hidden states, normed over all tokens, each of length 1."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    images = (pixels_N3HW.float() * (1 / 255) - mean) / std
    hidden = tower.model.post_layernorm(tower(pixel_values=images).last_hidden_state)
    features: Tensor = torch.nn.functional.normalize(hidden, dim=-1)
    return features
