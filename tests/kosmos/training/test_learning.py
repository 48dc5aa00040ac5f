"""Gradients reach exactly what is said to train, and what is frozen keeps nothing for a backward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.presets import PRESETS, preset
from kosmos.training.learning import choose_parameters, usual_eye
from kosmos.training.objective import KosmosObjective, overall
from kosmos.training.planning.inventory import take_inventory
from kosmos.training.recipe import EyeName
from tests.kosmos.training.pictured import pictured_batch
from vision import encoder
from vision.config import TowerConfig
from vision.encoder import ClipTower

EYES: tuple[EyeName, ...] = ("last-layer", "frozen", "all")
LAST_OF_THREE = "tower.visual.transformer.resblocks.2."
LAST_LAYER = [
    *(f"{LAST_OF_THREE}ln_1.{part}" for part in ("weight", "bias")),
    *(f"{LAST_OF_THREE}attn.{part}" for part in ("in_proj_weight", "in_proj_bias")),
    *(f"{LAST_OF_THREE}attn.out_proj.{part}" for part in ("weight", "bias")),
    *(f"{LAST_OF_THREE}ln_2.{part}" for part in ("weight", "bias")),
    *(f"{LAST_OF_THREE}mlp.c_fc.{part}" for part in ("weight", "bias")),
    *(f"{LAST_OF_THREE}mlp.c_proj.{part}" for part in ("weight", "bias")),
    *(f"tower.visual.ln_post.{part}" for part in ("weight", "bias")),
]


def reduced(name: str, *, tower_layers: int = 3) -> KosmosConfig:
    """A preset with everything it is but its size."""
    config = preset(name)
    decoder = replace(config.decoder, vocab_size=512, num_layers=2, width=64, num_heads=4, ffn_width=128)
    if config.tower.kind == "clip":
        tower = replace(
            config.tower, image_size=32, width=32, num_features=17, num_layers=tower_layers, num_heads=2,
            mlp_width=64, patch_size=8,
        )  # fmt: skip
    else:
        tower = replace(config.tower, image_size=64, num_features=4)
    return replace(
        config, tower=tower, resampler=replace(config.resampler, num_latents=4, num_heads=2), decoder=decoder
    )


def with_timm(name: str, num_features: int, width: int) -> KosmosConfig:
    tower = TowerConfig(kind="timm", name=name, image_size=64, width=width, num_features=num_features)
    return replace(reduced("base"), tower=tower)


def built(config: KosmosConfig) -> KosmosModel:
    torch.manual_seed(0)
    model = KosmosModel(config).train()
    for parameter in model.tower.parameters():
        if not parameter.any():  # as the built-in eye and a ResNet's residuals start; no gradient comes through zeros
            nn.init.normal_(parameter, std=0.1)
    return model


def reached(model: KosmosModel) -> list[str]:
    """Names that a step's backward pass gives a gradient; keys' biases cancel in a softmax, every other one counts."""
    overall(KosmosObjective(model).losses({"caption": pictured_batch(model.config)})).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    silent = [name for name, grad in gradients.items() if not grad.any() and not name.endswith("k_proj.bias")]
    assert silent == []
    return list(gradients)


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", [name for name, config in PRESETS.items() if config.tower.kind == "clip"])
def test_gradients_reach_exactly_what_trains_of_a_preset(name: str, eye: EyeName) -> None:
    model = built(reduced(name))
    trained = choose_parameters(model, eye)
    assert list(trained) == reached(model)
    of_the_tower = [name for name in trained if name.startswith("tower.")]
    everything = [name for name, _ in model.named_parameters()]
    assert len(trained) - len(of_the_tower) == sum(not name.startswith("tower.") for name in everything)
    wanted = {"last-layer": sorted(LAST_LAYER), "frozen": [], "all": sorted(n for n in everything if n[:6] == "tower.")}
    assert sorted(of_the_tower) == wanted[eye]


@pytest.mark.parametrize("eye", ["frozen", "all"])
@pytest.mark.parametrize("config", [reduced("tiny"), with_timm("resnet18", 4, 512)], ids=["built-in", "timm"])
def test_another_eye_is_frozen_or_trains_whole(config: KosmosConfig, eye: EyeName) -> None:
    model = built(config)
    trained = choose_parameters(model, eye)
    assert list(trained) == reached(model)
    assert all(name.startswith("tower.") for name, _ in model.named_parameters() if name not in trained)
    assert any(name.startswith("tower.") for name in trained) == (eye == "all")


def test_the_last_layer_of_an_eye_that_is_no_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tf_efficientnet_lite0 is no CLIP.*give eye 'frozen' or 'all'"):
        choose_parameters(built(reduced("tiny")), "last-layer")
    assert usual_eye(preset("tiny").tower) == "frozen"
    assert usual_eye(preset("kosmos1").tower) == "last-layer"


def test_a_choice_takes_back_the_one_before() -> None:
    model = built(reduced("kosmos1"))
    first = choose_parameters(model, "last-layer")
    assert choose_parameters(model, "all") == tuple(name for name, _ in model.named_parameters())
    assert choose_parameters(model, "last-layer") == first
    assert first == tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)


@pytest.mark.parametrize("eye", EYES)
def test_a_plan_counts_what_a_run_trains(eye: EyeName) -> None:
    config = reduced("kosmos2")
    planned = [size.name for size in take_inventory(config, eye).parameters if size.trained]
    assert planned == list(choose_parameters(built(config), eye))


# ---- what a tower keeps ----


def bytes_kept(config: KosmosConfig, eye: EyeName) -> int:
    """All that the tower's forward pass saves for its backward one."""
    model, kept = built(config), 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    choose_parameters(model, eye)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.tower(pictured_batch(config).pixels)
    return kept


def test_layers_below_the_first_that_trains_keep_nothing() -> None:
    shallow, deep = reduced("base", tower_layers=2), reduced("base", tower_layers=5)
    assert bytes_kept(deep, "frozen") == 0
    assert bytes_kept(deep, "last-layer") == bytes_kept(shallow, "last-layer") > 0
    assert bytes_kept(deep, "all") > 2 * bytes_kept(shallow, "all")


@pytest.mark.parametrize(("eye", "recording"), [("frozen", []), ("last-layer", [2]), ("all", [0, 1, 2])])
def test_blocks_below_the_first_that_trains_run_without_a_gradient(eye: EyeName, recording: list[int]) -> None:
    model = built(reduced("base"))
    choose_parameters(model, eye)
    assert isinstance(model.tower, ClipTower)
    seen: list[int] = []
    for number, block in enumerate(model.tower.visual.transformer.resblocks):
        block.ln_1.register_forward_pre_hook(lambda *_, n=number: seen.append(n) if torch.is_grad_enabled() else None)
    pixels = pictured_batch(model.config).pixels
    assert pixels is not None
    model.tower(pixels)
    assert seen == recording
    with torch.no_grad():
        model.tower(pixels)
    assert seen == recording


@pytest.mark.parametrize("eye", EYES)
def test_what_trains_changes_no_feature(eye: EyeName) -> None:
    model = built(reduced("kosmos1"))
    pixels = pictured_batch(model.config).pixels
    assert pixels is not None
    with torch.no_grad():
        before = model.tower(pixels)
    choose_parameters(model, eye)
    torch.testing.assert_close(model.tower(pixels), before, atol=1e-6, rtol=0)


def test_a_frozen_eye_in_training_takes_no_product_that_another_process_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The products of evaluation are raced, and a resumed run must have the bits of the run before."""
    model = built(reduced("kosmos1"))
    choose_parameters(model, "frozen")
    pixels = pictured_batch(model.config).pixels
    assert pixels is not None
    before = model.tower(pixels)
    monkeypatch.setattr(encoder, "fp32_linear", lambda x, weight, bias: 2 * nn.functional.linear(x, weight, bias))
    assert torch.equal(model.tower(pixels), before)
    with torch.no_grad():
        assert not torch.allclose(model.eval().tower(pixels), before)


def test_a_timm_tower_in_training_looks_at_each_picture_alone_and_stays_as_it_is() -> None:
    model = built(with_timm("resnet18", 4, 512))
    pixels = pictured_batch(model.config).pixels
    assert pixels is not None
    before = {name: value.clone() for name, value in model.tower.state_dict().items()}
    model.train()
    together = model.tower(pixels)
    torch.testing.assert_close(torch.cat([model.tower(one[None]) for one in pixels]), together, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.tower.state_dict().items())
