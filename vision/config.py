"""Shapes of the eye: which tower looks at a picture and how many latents the decoder gets of it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CLIP_MEAN", "CLIP_STD", "ResamplerConfig", "TowerConfig", "TowerKind"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

TowerKind = Literal["clip", "timm", "efficientnet_lite0"]


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """A vision tower and the pictures it expects.

    Attributes:
        kind: `clip` (an open_clip ViT), `timm` (any timm backbone) or `efficientnet_lite0` (the built-in eye).
        name: the name in the library that `kind` points to, e.g. `ViT-L-14-quickgelu`.
        image_size: side of the square picture, in pixels.
        width: channels of each feature the tower returns.
        num_features: features a picture gives (257 for ViT-L/14 at 224: class token and 16 x 16 patches).
        resize: `squash` (Kosmos-2 at inference) or `crop` (CLIP at training).
        num_layers: depth of a CLIP tower where it differs from the one `name` stands for (tests, small models).
    """

    kind: TowerKind
    name: str
    image_size: int
    width: int
    num_features: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resize: Literal["squash", "crop"] = "squash"
    num_layers: int | None = None
    num_heads: int | None = None
    mlp_width: int | None = None
    patch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "width", "num_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"tower {name}={getattr(self, name)}; give a positive number")


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """One cross-attention from `num_latents` learned queries to a picture's features (Kosmos-2's `XConnector`)."""

    num_latents: int
    num_heads: int
    dropout: float = 0.0
