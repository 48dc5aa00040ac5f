"""Towers give the features of the packages they come from, whatever the dtype, device and way they were built."""

from __future__ import annotations

import subprocess
import sys

import open_clip
import pytest
import timm
import torch
from open_clip.transformer import QuickGELU

from tests.vision.towers import (
    SMALL_CLIP,
    huggingface_features,
    huggingface_tower,
    pictures,
    scramble,
    small_clip,
)
from vision.clip_keys import hf_to_open_clip
from vision.config import TowerConfig
from vision.encoder import ClipTower, TimmTower, build_tower, normalised

VIT_L14 = TowerConfig(kind="clip", name="ViT-L-14-quickgelu", image_size=224, width=1024, num_features=257)
TIMM = [
    ("vit_tiny_patch16_224", 64, 17, 192),
    ("swin_tiny_patch4_window7_224", 64, 4, 768),
    ("eva02_tiny_patch14_224", 56, 17, 192),
    ("resnet18", 64, 4, 512),
    ("convnext_atto", 64, 4, 320),
]


def timm_config(name: str, side: int, num_features: int, width: int) -> TowerConfig:
    return TowerConfig(kind="timm", name=name, image_size=side, width=width, num_features=num_features)


# CLIP


@torch.no_grad()
def test_clip_tower_equals_transformers_kosmos2_tower() -> None:
    peer = huggingface_tower(SMALL_CLIP)
    tower = ClipTower(SMALL_CLIP)
    tower.load_state_dict(hf_to_open_clip(peer.model.state_dict()))
    features = tower(pictures())
    assert features.shape == (3, 17, 48)
    torch.testing.assert_close(features, huggingface_features(peer, pictures(), SMALL_CLIP), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3, 17))


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32-quickgelu", "ViT-M-16-alt", "ViT-H-14-CLIPA"])
@torch.no_grad()
def test_any_vit_of_open_clip_equals_its_own_forward(name: str) -> None:
    """Plain and quick GELU, layer scale, no norm before the blocks: what open_clip's ViTs differ in."""
    tower = ClipTower(small_clip(name=name))
    scramble(tower)
    visual = tower.visual
    assert isinstance(visual.transformer.resblocks[0].mlp.gelu, QuickGELU) == ("quickgelu" in name)
    images = normalised(pictures(), tower.config, torch.float32)
    tokens = visual.ln_post(visual.transformer(visual._embeds(images)))
    expected = torch.nn.functional.normalize(tokens, dim=-1)
    torch.testing.assert_close(tower(pictures()), expected, atol=1e-5, rtol=0)


def test_clip_tower_gives_the_same_with_and_without_gradients() -> None:
    tower = ClipTower(SMALL_CLIP)
    with_gradients = tower(pictures())
    with torch.no_grad():
        torch.testing.assert_close(tower(pictures()), with_gradients, atol=1e-6, rtol=0)
    with_gradients.sum().backward()
    assert all(weight.grad is not None for weight in tower.parameters())


def test_clip_tower_of_kosmos_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        tower = build_tower(VIT_L14)
    assert sum(weight.numel() for weight in tower.parameters()) == 303_179_776
    assert not dict(tower.named_buffers())


def test_sizes_not_overridden_are_open_clips_own() -> None:
    with torch.device("meta"):
        ours = build_tower(TowerConfig(kind="clip", name="ViT-B-16", image_size=224, width=768, num_features=197))
        theirs = open_clip.create_model("ViT-B-16", load_weights=False, device="meta").visual
    expected = {f"visual.{name}": weight.shape for name, weight in theirs.state_dict().items() if name != "proj"}
    assert {name: weight.shape for name, weight in ours.state_dict().items()} == expected


@pytest.mark.parametrize("mlp_width", [49, 100, 196])
def test_the_feed_forward_has_exactly_the_width_asked_for(mlp_width: int) -> None:
    with torch.device("meta"):
        tower = ClipTower(small_clip(width=44, mlp_width=mlp_width))  # 44 * (49 / 44) is below 49 in floats
    assert tower.visual.transformer.resblocks[0].mlp.c_fc.out_features == mlp_width


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "ViT-Z-1"}, "open_clip has no model 'ViT-Z-1'"),
        ({"name": "ViT-B-16-SigLIP"}, "kind='timm', name='vit_base_patch16_siglip_224'"),
        ({"name": "RN50"}, "no plain ViT"),
        ({"name": "coca_ViT-B-32"}, "no plain ViT"),
        ({"num_features": 16}, "gives 17 features"),
        ({"num_heads": 5}, "not divisible by num_heads=5"),
        ({"kind": "retina"}, "known kinds: clip, timm, efficientnet_lite0"),
    ],
)
def test_impossible_towers_say_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tower(small_clip(**changes))


# timm and the built-in eye


@pytest.mark.parametrize("sizes", TIMM, ids=lambda sizes: sizes[0])
@torch.no_grad()
def test_timm_tower_gives_timms_features_row_by_row_also_after_a_build_on_meta(
    sizes: tuple[str, int, int, int],
) -> None:
    config = timm_config(*sizes)
    tower = TimmTower(config).eval()
    pixels = pictures(2, config.image_size)
    features = tower(pixels)
    maps = tower.model.forward_features(normalised(pixels, config, torch.float32))  # type: ignore[operator]
    if maps.ndim == 4 and maps.shape[1] == config.width:
        maps = maps.permute(0, 2, 3, 1)
    assert torch.equal(features, maps.reshape(2, config.num_features, config.width))

    with torch.device("meta"):
        empty = build_tower(config)
    filled = empty.to_empty(device="cpu").eval()
    for table in filled.buffers():
        table.fill_(3)  # whatever memory held: timm keeps tables outside the state dict
    filled.load_state_dict(tower.state_dict())
    assert torch.equal(filled(pixels), features)


def test_timm_tower_equals_the_model_timm_builds() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0).eval()
    tower = TimmTower(timm_config("resnet18", 64, 4, 512)).eval()
    tower.model.load_state_dict(model.state_dict())
    pixels = pictures(2, 64)
    with torch.no_grad():
        pooled = model(normalised(pixels, tower.config, torch.float32))
        torch.testing.assert_close(tower(pixels).mean(dim=1), pooled)


def test_a_timm_tower_of_other_shape_than_its_config_says_its_shape() -> None:
    with pytest.raises(ValueError, match=r"features \[4, 512\].*num_features=9, width=512"):
        TimmTower(timm_config("resnet18", 64, 9, 512))(pictures(1, 64))
    with pytest.raises(ValueError, match="timm has no model 'resnet_of_nobody'"):
        build_tower(timm_config("resnet_of_nobody", 64, 4, 512))


def test_the_built_in_eye_is_a_tower() -> None:
    eye = TowerConfig(
        kind="efficientnet_lite0", name="tf_efficientnet_lite0", image_size=64, width=1280, num_features=4
    )
    assert build_tower(eye)(pictures(2, 64)).shape == (2, 4, 1280)
    with pytest.raises(ValueError, match="gives 4 features of width 1280"):
        build_tower(TowerConfig(kind=eye.kind, name=eye.name, image_size=64, width=1280, num_features=49))


def test_the_built_in_eye_starts_without_open_clip_and_timm() -> None:
    program = (
        "import sys; from vision.config import TowerConfig; from vision.encoder import build_tower; "
        "build_tower(TowerConfig(kind='efficientnet_lite0', name='e', image_size=64, width=1280, num_features=4)); "
        "sys.exit(any(name in sys.modules for name in ('timm', 'open_clip', 'torchvision')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# all towers


@pytest.mark.parametrize("config", [SMALL_CLIP, timm_config(*TIMM[0])], ids=["clip", "timm"])
@torch.no_grad()
def test_features_come_in_the_parameters_dtype(config: TowerConfig) -> None:
    tower = build_tower(config).eval()
    exact = tower(pictures(2, config.image_size))
    rounded = tower.to(torch.bfloat16)(pictures(2, config.image_size))
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    cosine = torch.nn.functional.cosine_similarity(rounded.float(), exact, dim=-1)
    assert cosine.min() > 0.99


@torch.no_grad()
def test_a_picture_gives_the_same_features_alone_and_in_company() -> None:
    tower = ClipTower(SMALL_CLIP)
    together = tower(pictures(5))
    alone = torch.cat([tower(picture[None]) for picture in pictures(5)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert tower(pictures(5)[:0]).shape == (0, 17, 48)


def test_pixels_are_normalised_as_transformers_does() -> None:
    pixels = pictures(2)
    config = SMALL_CLIP
    for color in range(3):
        expected = (pixels[:, color].double() / 255 - config.mean[color]) / config.std[color]
        torch.testing.assert_close(
            normalised(pixels, config, torch.float32)[:, color].double(), expected, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    "pixels",
    [pictures(1, 27), pictures(1).float(), pictures(1)[0], pictures(1)[:, :1]],
    ids=["side", "float", "3D", "grey"],
)
def test_other_pixels_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"takes uint8 pixels \[N, 3, 28, 28\]"):
        ClipTower(SMALL_CLIP)(pixels)
