"""Opening a model: what a name may be, and what becomes of the numbers in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kosmos import pretrained
from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import load_model, save_checkpoint
from kosmos.huggingface import export_kosmos2, load_kosmos2
from kosmos.model import KosmosModel
from kosmos.pretrained import load
from kosmos.transformer.kernels.plan import ProductPlan
from kosmos.transformer.precision import Dtypes
from tests.models import small_config
from text.tokenizer import Tokenizer

HALF = Dtypes(
    tower=torch.float32, hidden=torch.float32, weights=torch.bfloat16, plan=ProductPlan(steps=(), beyond="upcast")
)


class _MadeInFloat32(TorchDispatchMode):
    """Shapes of every float32 tensor that an operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32 and not result.is_meta:
            self.shapes.add(tuple(result.shape))
        return result


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_said_to_be_one(name: str) -> None:
    with pytest.raises(ValueError, match="no model is named; give `tiny`, a checkpoint or run folder, or a hub id"):
        load(name)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    load("tiny", dtype="float32").save(tmp_path / "mine")
    assert load("~/mine", dtype="float32").network.config.name == "tiny"
    with pytest.raises(ValueError, match="~/other is not there"):
        load("~/other")


@pytest.fixture
def network(small_tokenizer: Tokenizer) -> KosmosModel:
    """Random weights in bf16, built like Kosmos-2."""
    small = small_config(small_tokenizer, positions="sinusoidal")
    tower = replace(small.tower, name="ViT-L-14-quickgelu")
    resampler = replace(small.resampler, num_heads=small.decoder.num_heads)
    torch.manual_seed(0)
    return KosmosModel(replace(small, tower=tower, resampler=resampler)).bfloat16().eval()


@pytest.mark.parametrize("format", ["ours", "kosmos2"])
def test_matrices_of_a_half_precision_file_are_never_made_in_float32(
    network: KosmosModel, small_tokenizer: Tokenizer, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "half"
    if format == "ours":
        words = small_tokenizer.model
        save_checkpoint(network, folder, tokenizer_model=words, chat_template=DEFAULT_CHAT_TEMPLATE, card="# half\n")
        wide = load_model(folder)
    else:
        export_kosmos2(network, folder, small_tokenizer.model)
        wide = load_kosmos2(folder)[0]
    monkeypatch.setattr(pretrained, "choose_dtypes", lambda *_, **__: HALF)
    with _MadeInFloat32() as made:
        opened = load(folder)
    decoder = network.config.decoder
    matrices = {
        (decoder.ffn_width, decoder.width),
        (decoder.width, decoder.ffn_width),
        (decoder.vocab_size, decoder.width),
    }
    assert not made.shapes & matrices
    assert (decoder.width,) in made.shapes, "the norms were"
    for name, tensor in opened.network.state_dict().items():
        wanted = wide.state_dict()[name].to(tensor.dtype)
        assert torch.equal(tensor, wanted), name
    assert opened.network.decoder.embedding.weight.dtype == torch.bfloat16
    assert opened.network.decoder.norm.weight.dtype == opened.network.resampler.dense.weight.dtype == torch.float32
