"""Published weights reach a tower whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.vision.towers import SMALL_CLIP, pictures, scramble, small_clip
from vision.config import TowerConfig
from vision.encoder import ClipTower, TimmTower
from vision.pretrained import load_open_clip_weights, load_timm_weights

RESNET = TowerConfig(kind="timm", name="resnet18", image_size=64, width=512, num_features=4)


@pytest.fixture(scope="module")
def source() -> ClipTower:
    tower = ClipTower(SMALL_CLIP)
    scramble(tower)
    return tower


def whole_clip(tower: ClipTower) -> dict[str, torch.Tensor]:
    """As a CLIP checkpoint holds it: with a projection and words beside the picture side."""
    rest = {
        "visual.proj": torch.zeros(48, 8),
        "token_embedding.weight": torch.zeros(9, 8),
        "logit_scale": torch.tensor(1.0),
    }
    return {**tower.state_dict(), **rest}


@pytest.mark.parametrize("kind", ["safetensors", "torch", "trainer", "visual"])
def test_files_of_every_kind_fill_a_tower(kind: str, source: ClipTower, tmp_path: Path) -> None:
    path = tmp_path / ("clip.safetensors" if kind == "safetensors" else "clip.pt")
    state = whole_clip(source)
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "torch":
        torch.save(state, path)
    elif kind == "trainer":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": weight for name, weight in state.items()}}, path)
    else:
        torch.save(source.visual.state_dict(), path)
    tower = ClipTower(SMALL_CLIP)
    load_open_clip_weights(tower, path)
    assert torch.equal(tower(pictures()), source(pictures()))


def test_the_file_open_clip_itself_reads_gives_open_clips_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-S-32", pretrained=None).eval()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    tower = ClipTower(TowerConfig(kind="clip", name="ViT-S-32", image_size=224, width=384, num_features=50))
    load_open_clip_weights(tower, str(tmp_path / "clip.pt"))
    from vision.encoder import normalised

    pixels = pictures(1, 224)
    with torch.no_grad():
        clip.visual.output_tokens = True
        pooled, tokens = clip.visual(normalised(pixels, tower.config, torch.float32))
        features = tower(pixels)
        # open_clip projects the class token and hands out the patches normed.
        torch.testing.assert_close(features[:, 1:], torch.nn.functional.normalize(tokens, dim=-1), atol=1e-5, rtol=0)
        projected = torch.nn.functional.normalize(features[:, 0] @ clip.visual.proj, dim=-1)
        torch.testing.assert_close(projected, torch.nn.functional.normalize(pooled, dim=-1), atol=1e-5, rtol=0)


def test_positions_are_interpolated_to_another_picture_size(source: ClipTower, tmp_path: Path) -> None:
    torch.save(whole_clip(source), tmp_path / "clip.pt")
    tower = ClipTower(small_clip(image_size=42, num_features=37))
    load_open_clip_weights(tower, tmp_path / "clip.pt")
    ours, theirs = tower.visual.positional_embedding, source.visual.positional_embedding
    assert torch.equal(ours[0], theirs[0])
    assert ours.shape == (37, 48)
    torch.testing.assert_close(ours[1:].mean(dim=0), theirs[1:].mean(dim=0), atol=0.05, rtol=0)


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(source: ClipTower, tmp_path: Path) -> None:
    state = whole_clip(source)
    del state["visual.ln_pre.bias"]
    state["visual.extra"] = torch.zeros(1)
    state["visual.ln_post.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "clip.pt")
    tower = ClipTower(SMALL_CLIP)
    before = {name: weight.clone() for name, weight in tower.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_open_clip_weights(tower, tmp_path / "clip.pt")
    for complaint in (
        "visual.extra is [1], not expected",
        "visual.ln_post.weight is [7], not [48]",
        "visual.ln_pre.bias is missing, not [48]",
    ):
        assert complaint in str(caught.value)
    assert all(torch.equal(before[name], weight) for name, weight in tower.state_dict().items())


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "clip.pt").write_bytes(pickle.dumps({"visual.conv1.weight": Trap()}, protocol=2))
    torch.save({"visual.conv1.weight": Trap()}, tmp_path / "clip.pth")
    for name in ("clip.pt", "clip.pth"):
        with pytest.raises(ValueError, match="read safely"):
            load_open_clip_weights(ClipTower(SMALL_CLIP), tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("ViT-L-14-quickgelu", "nobody", "neither a file nor weights .* it has: openai"),
        ("ViT-B-32", "openai", "other GELU; name the tower 'ViT-B-32-quickgelu'"),
        ("ViT-L-14-CLIPA", "datacomp1b", "need mean="),
    ],
)
def test_tags_that_do_not_suit_the_tower_are_refused_before_any_download(name: str, tag: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_open_clip_weights(ClipTower(small_clip(name=name)), tag)


def test_a_suitable_tag_is_fetched_by_open_clip(
    source: ClipTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(whole_clip(source), tmp_path / "clip.safetensors")
    asked = []

    def download(published: dict[str, object]) -> str:
        asked.append(published["hf_hub"])
        return str(tmp_path / "clip.safetensors")

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    tower = ClipTower(SMALL_CLIP)
    load_open_clip_weights(tower, "openai")
    assert asked == ["timm/vit_large_patch14_clip_224.openai/"]
    assert torch.equal(tower(pictures()), source(pictures()))


def test_a_timm_checkpoint_fills_a_tower_without_its_classifier(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "resnet.pth")
    tower = TimmTower(RESNET)
    load_timm_weights(tower, tmp_path / "resnet.pth")
    assert torch.equal(tower.model.get_parameter("layer4.1.conv2.weight"), model.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match="does not fit the tower"):
        load_timm_weights(TimmTower(TowerConfig(**{**vars(RESNET), "name": "resnet34"})), tmp_path / "resnet.pth")
