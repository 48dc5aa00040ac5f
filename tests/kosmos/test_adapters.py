"""A folder with a LoRA adapter opens with the checkpoint it names, without peft; one that is no plain LoRA says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import kosmos
from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import ADAPTER_CONFIG, ADAPTER_PREFIX, ADAPTER_WEIGHTS, save_checkpoint
from kosmos.model import KosmosModel
from tests.models import small_config
from text.tokenizer import Tokenizer

LAYER = "decoder.blocks.1.feedforward.fc1"
QUERY = "resampler.latent_query"


@pytest.fixture
def base(small_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A checkpoint to stand beside."""
    torch.manual_seed(0)
    model = KosmosModel(small_config(small_tokenizer))
    words = small_tokenizer.model
    save_checkpoint(model, tmp_path / "base", tokenizer_model=words, chat_template=DEFAULT_CHAT_TEMPLATE, card="# a\n")
    return tmp_path / "base"


@dataclass
class Written:
    """An adapter made by hand: rank 2 of one layer, and the resampler's queries trained whole."""

    folder: Path
    weights: dict[str, Tensor]

    @staticmethod
    def to(folder: Path, base: Path | str, *, seed: int = 0) -> Written:
        draw = torch.Generator().manual_seed(seed)
        shapes = {f"{LAYER}.lora_A.weight": (2, 64), f"{LAYER}.lora_B.weight": (128, 2), QUERY: (4, 64)}
        weights = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        written = Written(folder, {ADAPTER_PREFIX + name: value for name, value in weights.items()})
        written.write({"base_model_name_or_path": str(base)})
        return written

    def write(self, change: Mapping[str, object], stray: Mapping[str, Tensor] | None = None) -> None:
        """As it is but for `change` and `stray`."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / ADAPTER_CONFIG
        values = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "lora_dropout": 0.0, "bias": "none"}
        present = json.loads(path.read_text()) if path.exists() else values
        path.write_text(json.dumps(present | dict(change)))
        save_file(self.weights | dict(stray or {}), self.folder / ADAPTER_WEIGHTS)

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[ADAPTER_PREFIX + name]

    @property
    def product(self) -> Tensor:
        """What it adds, by the paper: alpha / rank times B A."""
        return 6 / 2 * self[f"{LAYER}.lora_B.weight"] @ self[f"{LAYER}.lora_A.weight"]


def test_an_adapter_adds_its_product_to_the_checkpoint_it_names(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    adapter = Written.to(tmp_path / "adapter", base)
    plain = kosmos.load(base, dtype="float32").network.state_dict()
    opened = kosmos.load(tmp_path / "adapter", dtype="float32")
    for name, value in opened.network.state_dict().items():
        if name == f"{LAYER}.weight":
            torch.testing.assert_close(value, plain[name] + adapter.product)
        else:
            assert torch.equal(value, adapter[QUERY] if name == QUERY else plain[name]), name
    assert len(opened.generate(["a man"], max_new_tokens=3)[0].ids) > 0
    opened.save(tmp_path / "whole")
    assert not (tmp_path / "whole" / ADAPTER_CONFIG).exists()
    assert torch.equal(
        kosmos.load(tmp_path / "whole", dtype="float32").network.state_dict()[f"{LAYER}.weight"],
        opened.network.state_dict()[f"{LAYER}.weight"],
    )


def test_the_files_of_base_and_adapter_stay_as_they_are(base: Path, tmp_path: Path) -> None:
    Written.to(tmp_path / "adapter", base)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kosmos.load(tmp_path / "adapter", dtype="float32")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_adapter_may_stand_on_an_adapter(base: Path, tmp_path: Path) -> None:
    below = Written.to(tmp_path / "below", base)
    above = Written.to(tmp_path / "above", tmp_path / "below", seed=1)
    plain = kosmos.load(base, dtype="float32").network.state_dict()
    opened = kosmos.load(tmp_path / "above", dtype="float32").network.state_dict()
    torch.testing.assert_close(opened[f"{LAYER}.weight"], plain[f"{LAYER}.weight"] + below.product + above.product)
    assert torch.equal(opened[QUERY], above[QUERY])


@pytest.mark.parametrize("other", ["above", "below"])
def test_adapters_in_a_circle_are_refused(tmp_path: Path, other: str) -> None:
    Written.to(tmp_path / "below", tmp_path / other)
    Written.to(tmp_path / "above", tmp_path / "below")
    with pytest.raises(ValueError, match="reaches no checkpoint"):
        kosmos.load(tmp_path / "above")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "LoRA with use_dora; plain LoRA can be opened"),
        ({"rank_pattern": {"fc1": 2}, "bias": "all"}, "LoRA with rank_pattern, bias"),
        ({"peft_type": "IA3"}, "an adapter of kind 'IA3'"),
        ({"peft_type": None}, "an adapter of kind 'None'"),
        ({"r": 0}, "r=0"),
        ({"r": "2"}, "r='2'"),
        ({"lora_alpha": 1e400}, "lora_alpha=inf"),
        ({"lora_dropout": "0.1"}, "lora_dropout='0.1'"),
        ({"base_model_name_or_path": None}, "does not say which checkpoint it is an adapter to"),
        ({"base_model_name_or_path": "./gone"}, r"is an adapter to \./gone, which does not open: \./gone is not there"),
        ({"r": 3}, rf"\(128, 2\) x \(2, 64\) does not fit {LAYER}, \(128, 64\), with rank 3"),
    ],
)
def test_what_is_no_plain_lora_of_its_base_is_refused(
    base: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    Written.to(tmp_path / "adapter", base).write(change)
    with pytest.raises(ValueError, match=message):
        kosmos.load(tmp_path / "adapter", dtype="float32")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (f"{ADAPTER_PREFIX}decoder.head.lora_A.weight", (2, 64), "decoder.head, which is no matrix of this model"),
        (f"{ADAPTER_PREFIX}decoder.norm.lora_B.weight", (64, 2), "decoder.norm, .* or lacks a factor of it"),
        (f"{ADAPTER_PREFIX}decoder.other", (3,), r"decoder\.other \(3,\) is no weight of this model"),
        (f"{ADAPTER_PREFIX}{QUERY}", (3,), r"resampler\.latent_query \(3,\) is no weight of this model"),
        ("elsewhere", (3,), "elsewhere .* is no weight of an adapter"),
    ],
)
def test_a_weight_that_has_no_place_is_refused(
    base: Path, tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    Written.to(tmp_path / "adapter", base).write({}, {name: torch.zeros(shape)})
    with pytest.raises(ValueError, match=message):
        kosmos.load(tmp_path / "adapter", dtype="float32")


def test_a_missing_or_cut_off_file_of_weights_is_refused(base: Path, tmp_path: Path) -> None:
    path = Written.to(tmp_path / "adapter", base).folder / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        kosmos.load(tmp_path / "adapter", dtype="float32")
    path.unlink()
    with pytest.raises(ValueError, match="no whole safetensors file"):
        kosmos.load(tmp_path / "adapter", dtype="float32")
