"""The built-in eye equals timm's network with the same weights, folded norms and odd sizes, without importing it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import timm
import torch
from torch import Tensor, nn

from vision.efficientnet import FEATURE_WIDTH, NUM_FEATURES, EfficientNetLite0, folded_weights, registry_weights

RENAMED = {"_conv_stem": "conv_stem", "_conv_head": "conv_head", "_bn0": "bn1", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_names(published: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The published state dict under timm's names."""
    stages = [list(stage.children()) for stage in network.get_submodule("blocks").children()]
    blocks = [f"blocks.{s}.{j}" for s, stage in enumerate(stages) for j in range(len(stage))]
    renamed = {}
    for name, tensor in published.items():
        inner = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if inner:
            table = FIRST if inner[1] == "0" else LATER
            renamed[f"{blocks[int(inner[1])]}.{table[inner[2]]}.{inner[3]}"] = tensor
        else:
            part, _, rest = name.partition(".")
            renamed[f"{RENAMED[part]}.{rest}"] = tensor
    return renamed


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(registry_weights(), weights_only=True)
    return weights


@pytest.fixture(scope="module")
def peer(published: dict[str, Tensor]) -> nn.Module:
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(_timm_names(published, network))
    return network.eval()


@pytest.fixture(scope="module")
def eye(published: dict[str, Tensor]) -> EfficientNetLite0:
    network = EfficientNetLite0()
    network.load_state_dict(folded_weights(published))
    return network.eval()


@pytest.mark.parametrize("size", [(224, 224), (160, 203)])
@torch.inference_mode()
def test_features_equal_those_of_timm_with_the_same_weights(
    eye: EfficientNetLite0, peer: nn.Module, size: tuple[int, int]
) -> None:
    pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scaled = (pixels.float() / 255 - 0.5) / 0.5
    expected = peer.bn2(peer.conv_head(peer.blocks(peer.bn1(peer.conv_stem(scaled)))))
    torch.testing.assert_close(eye.maps(pixels), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_picture_gives_its_map_row_by_row(eye: EfficientNetLite0) -> None:
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    features, maps = eye(pixels), eye.maps(pixels)
    assert features.shape == (1, NUM_FEATURES, FEATURE_WIDTH)
    torch.testing.assert_close(features[0, 7 * 2 + 5], maps[0, :, 2, 5])


@torch.inference_mode()
def test_a_picture_is_seen_the_same_alone_and_in_a_batch(eye: EfficientNetLite0) -> None:
    pixels = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(eye(pixels)[1:2], eye(pixels[1:2]), atol=1e-5, rtol=1e-4)


def test_the_eye_has_nothing_to_train(eye: EfficientNetLite0) -> None:
    assert not [name for name, parameter in eye.named_parameters() if parameter.requires_grad]


def test_the_eye_imports_neither_timm_nor_open_clip() -> None:
    code = "import sys, vision.efficientnet; print(sorted({'timm', 'open_clip', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
