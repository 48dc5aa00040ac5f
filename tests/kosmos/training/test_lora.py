"""Adapters: nothing at the start, the same after saving, the same merged, and read by peft as by us."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import kosmos
from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import ADAPTER_WEIGHTS, save_checkpoint
from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.training.lora import add_adapters, load_adapter, merged, save_adapter
from kosmos.training.objective import KosmosObjective, overall
from kosmos.training.recipe import LoraRecipe
from kosmos.transformer.config import ExpertsConfig
from kosmos.transformer.kernels.plan import ProductPlan
from kosmos.transformer.linear import set_plan
from tests.kosmos.training.pictured import pictured_batch
from tests.models import small_config
from text.tokenizer import Tokenizer

Built = Callable[..., KosmosModel]
RECIPE = LoraRecipe(rank=4, alpha=8.0)


@pytest.fixture
def built(small_tokenizer: Tokenizer) -> Built:
    """Makes the same small model each time: xPos as Kosmos-1 and `tiny`, sinusoids as Kosmos-2."""

    def build(
        *, positions: Literal["xpos", "sinusoidal"] = "xpos", experts: ExpertsConfig | None = None
    ) -> KosmosModel:
        config = small_config(small_tokenizer, positions=positions)
        torch.manual_seed(0)
        return KosmosModel(replace(config, decoder=replace(config.decoder, experts=experts))).eval()

    return build


def taught(model: KosmosModel, *, steps: int = 5) -> KosmosModel:
    """A few steps at a rate that moves every logit."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    objective = KosmosObjective(model.train())
    for step in range(steps):
        torch.manual_seed(step)
        overall(objective.losses({"caption": pictured_batch(model.config, seed=step % 2)})).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@torch.no_grad()
def logits(model: KosmosModel, packed: Packed | None = None) -> Tensor:
    return model.logits(model(pictured_batch(model.config, seed=9) if packed is None else packed))


def saved(model: KosmosModel, folder: Path, words: Tokenizer) -> Path:
    """A checkpoint of a plain model."""
    save_checkpoint(model, folder, tokenizer_model=words.model, chat_template=DEFAULT_CHAT_TEMPLATE, card="# small\n")
    return folder


# ---- what trains ----


@pytest.mark.parametrize("positions", ["xpos", "sinusoidal"])
def test_adapters_start_as_nothing(built: Built, positions: str) -> None:
    before = logits(built(positions=positions))
    model = built(positions=positions)
    add_adapters(model, RECIPE)
    assert torch.equal(logits(model), before)
    assert not torch.equal(logits(taught(model)), before)


@pytest.mark.parametrize("resampler", [False, True])
def test_adapters_alone_have_gradients_and_the_resampler_if_asked(built: Built, resampler: bool) -> None:
    model = built()
    trained = add_adapters(model, replace(RECIPE, resampler=resampler))
    overall(KosmosObjective(model.train()).losses({"caption": pictured_batch(model.config)})).backward()
    assert trained == tuple(name for name, parameter in model.named_parameters() if parameter.grad is not None)
    layers = [f"decoder.blocks.{n}.attention.{part}_proj" for n in (0, 1) for part in ("q", "k", "v", "out")]
    layers += [f"decoder.blocks.{n}.feedforward.fc{part}" for n in (0, 1) for part in (1, 2)]
    wanted = {f"{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}
    assert {name for name in trained if not name.startswith("resampler.")} == wanted
    whole = {name for name, _ in model.named_parameters() if name.startswith("resampler.")}
    assert set(trained) - wanted == (whole if resampler else set())


def test_training_leaves_the_frozen_weights_as_they_were(built: Built) -> None:
    before, model = built().state_dict(), built()
    add_adapters(model, RECIPE)
    after = {name.replace(".base_layer", ""): value for name, value in taught(model).state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_chosen_layers_alone_get_an_adapter(built: Built) -> None:
    trained = add_adapters(built(), replace(RECIPE, targets=("fc2", "q_proj")))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == {"fc2", "q_proj"}


def test_dropout_acts_in_training_alone(built: Built) -> None:
    model = built()
    add_adapters(model, replace(RECIPE, dropout=0.5))
    taught(model)
    assert torch.equal(logits(model), logits(model))


# ---- saving and opening ----


@pytest.mark.parametrize("positions", ["xpos", "sinusoidal"])
@pytest.mark.parametrize("resampler", [False, True])
def test_an_adapter_comes_back_to_a_fresh_model_to_the_bit(
    built: Built, tmp_path: Path, positions: str, resampler: bool
) -> None:
    model = built(positions=positions)
    trained = add_adapters(model, replace(RECIPE, resampler=resampler))
    save_adapter(taught(model), tmp_path / "adapter")
    fresh = built(positions=positions)
    assert load_adapter(fresh, tmp_path / "adapter") == trained
    assert torch.equal(logits(fresh), logits(model))
    assert torch.equal(logits(taught(fresh)), logits(taught(model)))  # and it trains on


@pytest.mark.parametrize("resampler", [False, True])
def test_peft_opens_what_was_saved(built: Built, tmp_path: Path, resampler: bool) -> None:
    import peft

    model = built()
    add_adapters(model, replace(RECIPE, resampler=resampler))
    save_adapter(taught(model), tmp_path)
    fresh = built()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns of weights it misses or does not know
        peft.PeftModel.from_pretrained(fresh, str(tmp_path))
    assert torch.equal(logits(fresh.eval()), logits(model))


def test_what_peft_saved_is_opened(built: Built, tmp_path: Path) -> None:
    import peft

    model = built()
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=r"decoder\.blocks\..*\.(q_proj|v_proj|fc1)")
    theirs = peft.get_peft_model(model, config)
    taught(model)
    theirs.save_pretrained(str(tmp_path))
    fresh = built()
    load_adapter(fresh, tmp_path)
    torch.testing.assert_close(logits(fresh), logits(model))


def test_an_averaged_state_is_saved_in_the_place_of_the_models_own(built: Built, tmp_path: Path) -> None:
    model = built()
    add_adapters(model, RECIPE)
    average = {name: value.clone() for name, value in taught(model).state_dict().items()}
    taught(model, steps=3)
    save_adapter(model, tmp_path / "adapter", average)
    fresh = built()
    load_adapter(fresh, tmp_path / "adapter")
    torch.testing.assert_close(logits(fresh), logits(merged(model, average)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(fresh), logits(model), atol=1e-2)


def test_numbers_that_are_not_finite_leave_the_old_adapter(built: Built, tmp_path: Path) -> None:
    model = built()
    name = add_adapters(model, RECIPE)[0]
    save_adapter(model, tmp_path / "adapter")
    before = (tmp_path / "adapter" / ADAPTER_WEIGHTS).read_bytes()
    model.get_parameter(name).data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite: base_model"):
        save_adapter(model, tmp_path / "adapter")
    assert (tmp_path / "adapter" / ADAPTER_WEIGHTS).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# ---- merging ----


@pytest.mark.parametrize("positions", ["xpos", "sinusoidal"])
@pytest.mark.parametrize("resampler", [False, True])
def test_a_merged_model_computes_what_the_adapted_one_does(
    built: Built, small_tokenizer: Tokenizer, tmp_path: Path, positions: str, resampler: bool
) -> None:
    model = built(positions=positions)
    add_adapters(model, replace(RECIPE, resampler=resampler))
    own = logits(taught(model))
    plain = merged(model)
    torch.testing.assert_close(logits(plain), own, atol=1e-5, rtol=0)
    assert list(plain.state_dict()) == list(built(positions=positions).state_dict())
    assert plain.decoder.head.weight is plain.decoder.embedding.weight
    folder = saved(plain, tmp_path / "merged", small_tokenizer)
    assert torch.equal(logits(kosmos.load(folder, dtype="float32").network), logits(plain))
    assert torch.equal(logits(model), own)  # merging took nothing from the model that trains on


def test_an_adapter_opens_with_the_checkpoint_it_names(
    built: Built, small_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run folder it names the step that was newest then, by a path that is the same from anywhere."""
    saved(built(), tmp_path / "run" / "step-000100", small_tokenizer)
    model = built()
    monkeypatch.chdir(tmp_path)
    add_adapters(model, replace(RECIPE, resampler=True), base="run")
    saved(built(positions="sinusoidal"), tmp_path / "run" / "step-000200", small_tokenizer)
    save_adapter(taught(model), tmp_path / "adapter")
    monkeypatch.chdir("/")
    opened = kosmos.load(tmp_path / "adapter", dtype="float32")
    assert torch.equal(logits(opened.network), logits(merged(model)))
    assert opened.generate(["a man"], max_new_tokens=3)[0].ids


def test_a_step_of_a_run_opens_merged_beside_its_adapter(
    built: Built, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    step = tmp_path / "run" / "step-000010"
    saved(built(), tmp_path / "base", small_tokenizer)
    model = built()
    add_adapters(model, RECIPE, base=str(tmp_path / "base"))
    saved(merged(taught(model)), step, small_tokenizer)
    save_adapter(model, step / "adapter")
    whole = kosmos.load(tmp_path / "run", dtype="float32").network
    beside = kosmos.load(step / "adapter", dtype="float32").network
    assert torch.equal(logits(whole), logits(beside))


# ---- layers of ours inside peft's ----


def test_an_adapted_model_keeps_its_deterministic_mode(built: Built) -> None:
    model = built()
    add_adapters(model, RECIPE)
    taught(model).set_deterministic(on=True)
    tokens, lengths = torch.arange(10, 43), (1, 2, 30)  # few rows are what a plain product multiplies otherwise
    positions = torch.cat([torch.arange(length) for length in lengths])
    together = logits(model, Packed(tokens=tokens, lengths=lengths, positions=positions))
    for ids, rows in zip(tokens.split(lengths), together.split(lengths), strict=True):
        alone = Packed(tokens=ids, lengths=(len(ids),), positions=torch.arange(len(ids)))
        assert torch.equal(logits(model, alone), rows)


def test_adapters_stand_beside_matrices_stored_in_half_precision(built: Built) -> None:
    """The frozen matrix is multiplied by its plan, the adapter in float32."""
    model = built()
    add_adapters(model, RECIPE)
    exact = logits(taught(model))
    for name, parameter in model.decoder.named_parameters():
        if "base_layer.weight" in name:
            parameter.data = parameter.data.bfloat16()
    upcast = logits(model)
    set_plan(model.decoder, ProductPlan(steps=(), beyond="upcast"))
    torch.testing.assert_close(logits(model), upcast, atol=1e-4, rtol=0)
    assert 0 < (upcast - exact).abs().max() < 0.1 * exact.abs().max()
    assert merged(model).decoder.blocks[0].attention.q_proj.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


def test_experts_keep_their_stacked_weights(built: Built, caplog: pytest.LogCaptureFixture) -> None:
    model = built(experts=ExpertsConfig(num_experts=4, every=2))
    with caplog.at_level(logging.WARNING):
        trained = add_adapters(model, RECIPE)
    assert "adapters skip the experts of 1 sparse layers: stacked weights take none" in caplog.text
    assert not any("blocks.1.feedforward" in name for name in trained)
    assert any("blocks.0.feedforward.fc1" in name for name in trained)
    own = logits(taught(model))
    torch.testing.assert_close(logits(merged(model)), own, atol=1e-5, rtol=0)


def test_a_model_of_experts_alone_has_no_feed_forward_to_adapt(built: Built) -> None:
    with pytest.raises(ValueError, match="'fc1': all its feed-forwards are experts, whose stacked weights take no"):
        add_adapters(built(experts=ExpertsConfig(num_experts=4, every=1)), RECIPE)


# ---- refusals ----


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            {"targets": ("q_prj",)},
            r"named 'q_prj' \(did you mean 'q_proj'\?\); there are q_proj, k_proj, v_proj, out_proj, fc1, fc2",
        ),
        ({"targets": ("lm_head_of_another",)}, "named 'lm_head_of_another'; there are q_proj"),
        ({"targets": ("head",)}, "the head is the embedding itself"),
        ({"targets": ()}, "at least one target"),
        ({"rank": 65}, "rank=65 is above what decoder.blocks.0.attention.q_proj has, 64 x 64; give at most 64"),
        ({"rank": 0}, "rank=0.*give a rank of at least 1"),
        ({"alpha": 0.0}, "alpha above 0"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_a_recipe_that_fits_no_layer_is_refused_and_the_model_left_plain(
    built: Built, fault: dict[str, object], message: str
) -> None:
    model = built()
    with pytest.raises(ValueError, match=message):
        add_adapters(model, replace(RECIPE, **fault))  # type: ignore[arg-type]
    assert list(model.state_dict()) == list(built().state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_adapters_are_added_once_and_missed_where_there_are_none(built: Built, tmp_path: Path) -> None:
    model = built()
    for work in (lambda: merged(model), lambda: save_adapter(model, tmp_path / "none")):
        with pytest.raises(ValueError, match="has no adapters; add_adapters"):
            work()
    add_adapters(model, RECIPE)
    save_adapter(model, tmp_path / "one")
    for again in (lambda: add_adapters(model, RECIPE), lambda: load_adapter(model, tmp_path / "one")):
        with pytest.raises(ValueError, match="has adapters already; merge them first"):
            again()


def test_without_peft_the_extra_is_named(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"LoRA needs peft: install kosmos-mllm\[train\]"):
        add_adapters(built(), RECIPE)


def test_an_adapter_of_another_shape_names_what_differs(built: Built, tmp_path: Path) -> None:
    model = built()
    add_adapters(model, RECIPE)
    save_adapter(model, tmp_path)
    weights = load_file(tmp_path / ADAPTER_WEIGHTS)
    gone = "base_model.model.decoder.blocks.1.feedforward.fc2.lora_A.weight"
    save_file({name: value for name, value in weights.items() if name != gone}, tmp_path / ADAPTER_WEIGHTS)
    fresh = built()
    with pytest.raises(ValueError, match=r"1 weights differ, decoder\.blocks\.1\.feedforward\.fc2\.lora_A\.weight"):
        load_adapter(fresh, tmp_path)
    assert list(fresh.state_dict()) == list(built().state_dict())
