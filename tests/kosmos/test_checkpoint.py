"""A checkpoint folder gives back the model it was made of, appears whole or not at all, and trusts nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kosmos import checkpoint, weight_files
from kosmos.checkpoint import checkpoint_folder, load_model, newest_step, read_config, save_checkpoint
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.packed import Packed
from tests.models import small_config
from text.tokenizer import Tokenizer
from vision.config import TowerConfig

FILES = {"config.json", "model.safetensors", "tokenizer.model", "chat_template.jinja", "README.md"}


@pytest.fixture(scope="module")
def config(small_tokenizer: Tokenizer) -> KosmosConfig:
    return small_config(small_tokenizer)


@pytest.fixture(scope="module")
def model(config: KosmosConfig) -> KosmosModel:
    torch.manual_seed(0)
    return KosmosModel(config).eval()


@pytest.fixture
def folder(model: KosmosModel, tmp_path: Path) -> Path:
    save(model, tmp_path / "small")
    return tmp_path / "small"


def save(model: KosmosModel, folder: Path, **options: object) -> None:
    save_checkpoint(model, folder, tokenizer_model=b"words", chat_template="{{ messages }}", card="# small", **options)  # type: ignore[arg-type]


def states_equal(first: KosmosModel, second: KosmosModel) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def logits(model: KosmosModel) -> torch.Tensor:
    pixels = torch.arange(3 * 32 * 32, dtype=torch.uint8).view(1, 3, 32, 32)
    rows = torch.arange(1, 5)[None]
    packed = Packed(
        tokens=torch.arange(2, 12), lengths=(10,), positions=torch.arange(10), image_rows=rows, pixels=pixels
    )
    with torch.inference_mode():
        return model.logits(model(packed))


def test_a_model_comes_back_as_it_was(model: KosmosModel, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    loaded = load_model(folder)
    assert loaded.config == model.config
    assert states_equal(loaded, model)
    assert loaded.decoder.head.weight is loaded.decoder.embedding.weight
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))


def test_the_head_is_stored_once_and_texts_as_given(folder: Path) -> None:
    names = set(load_file(folder / "model.safetensors"))
    assert "decoder.embedding.weight" in names
    assert "decoder.head.weight" not in names
    assert (folder / "tokenizer.model").read_bytes() == b"words"
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (folder / "README.md").read_text() == "# small"


def test_whoever_may_read_the_folder_may_read_the_weights(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_the_same_model_gives_the_same_bytes(model: KosmosModel, folder: Path, tmp_path: Path) -> None:
    save(load_model(folder), tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("asked", [torch.float32, torch.bfloat16])
def test_weights_stored_in_half_precision_come_as_the_dtype_asked_for(
    model: KosmosModel, tmp_path: Path, stored: torch.dtype, asked: torch.dtype
) -> None:
    save(model, tmp_path / "half", dtype=stored)
    loaded = load_model(tmp_path / "half", "cpu", asked)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(stored).to(asked))


def test_large_weights_are_cut_into_shards_with_an_index(model: KosmosModel, tmp_path: Path) -> None:
    save(model, tmp_path / "sharded", max_shard_bytes=50_000)
    shards = sorted(path.name for path in (tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(
        tensor.numel() * 4 for name, tensor in model.state_dict().items() if name != "decoder.head.weight"
    )
    assert states_equal(load_model(tmp_path / "sharded"), model)


def test_training_a_loaded_model_leaves_the_file_as_it_is(model: KosmosModel, folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    loaded = load_model(folder)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1.0)
    assert (folder / "model.safetensors").read_bytes() == before
    assert states_equal(load_model(folder), model)


@pytest.mark.slow
def test_buffers_that_are_computed_are_there_after_loading(config: KosmosConfig, tmp_path: Path) -> None:
    """A Swin tower keeps tables outside its weights; a model built without memory must get them all the same."""
    tower = TowerConfig(kind="timm", name="swin_tiny_patch4_window7_224", image_size=224, width=768, num_features=49)
    built = KosmosModel(replace(config, tower=tower)).eval()
    assert set(dict(built.tower.named_buffers())) - set(built.tower.state_dict())
    save(built, tmp_path / "swin")
    loaded = load_model(tmp_path / "swin")
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded.tower(pixels), built.tower(pixels))


# ---- whole or not at all ----


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(model: KosmosModel, folder: Path) -> None:
    changed = load_model(folder)
    with torch.no_grad():
        changed.decoder.norm.weight.mul_(2)
    save(changed, folder)
    assert states_equal(load_model(folder), changed)
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_whoever_has_read_the_old_folder_keeps_its_weights(model: KosmosModel, folder: Path) -> None:
    reader = load_model(folder)
    changed = load_model(folder)
    with torch.no_grad():
        changed.decoder.norm.weight.mul_(2)
    save(changed, folder)
    assert states_equal(reader, model)


def test_a_save_that_fails_leaves_the_old_folder_and_no_other(model: KosmosModel, folder: Path) -> None:
    broken = load_model(folder)
    with torch.no_grad():
        broken.decoder.norm.weight[0] = 1e6
    with pytest.raises(ValueError, match=r"decoder\.norm\.weight is not finite as torch\.float16"):
        save(broken, folder, dtype=torch.float16)
    assert states_equal(load_model(folder), model)
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_a_killed_save_leaves_the_old_folder_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends without a farewell while its new files are being written."""
    changed = load_model(folder)
    with torch.no_grad():
        changed.decoder.norm.weight.mul_(2)
    monkeypatch.setattr(checkpoint, "write_weights", lambda *_, **__: os._exit(9))
    before = {name: (folder / name).read_bytes() for name in FILES}
    process = os.fork()
    if process == 0:
        save(changed, folder)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_folders_swap_by_renaming_where_the_system_cannot_exchange_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files.ctypes, "CDLL", lambda name: object())
    save(load_model(folder), folder, extra_files={"NOTICE": b"eye"})
    assert (folder / "NOTICE").read_bytes() == b"eye"
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_a_folder_with_something_else_in_it_is_not_replaced(model: KosmosModel, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"no part of a checkpoint \(thesis\.tex\)"):
        save(model, tmp_path / "run")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        save(model, tmp_path / "file")


def test_a_model_that_is_not_what_its_config_says_is_not_saved(folder: Path) -> None:
    changed = load_model(folder)
    changed.decoder.blocks[0].attention.q_proj = torch.nn.Identity()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"lacks 2 weights .*q_proj\.bias, .*q_proj\.weight"):
        save(changed, folder)


# ---- run folders ----


def test_a_run_folder_opens_at_its_newest_good_step(model: KosmosModel, tmp_path: Path) -> None:
    for step in (5, 40, 100, 200):
        save(model, tmp_path / f"step-{step:06d}")
    (tmp_path / "config.json").write_text(model.config.to_json())
    (tmp_path / "step-000200" / "config.json").write_text("{")
    weights = tmp_path / "step-000100" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "step-000300.partial").mkdir()
    assert newest_step(tmp_path) == checkpoint_folder(tmp_path) == tmp_path / "step-000040"
    assert checkpoint_folder(tmp_path / "step-000005") == tmp_path / "step-000005"


def test_a_folder_that_holds_no_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint_folder(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        checkpoint_folder(tmp_path / "nowhere")


# ---- hostile and broken folders ----


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("decoder.norm.bias"), r"lacks 1 weights .*: decoder\.norm\.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "has unknown 1 weights .*: extra"),
        (
            lambda state: state.update({"decoder.norm.bias": torch.zeros(3)}),
            r"weight decoder\.norm\.bias has shape \(3,\), its config asks \(64,\)",
        ),
        (
            lambda state: state.update({"decoder.norm.bias": torch.zeros(64, dtype=torch.int64)}),
            r"weight decoder\.norm\.bias is torch\.int64",
        ),
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_weights_must_fit_the_config(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], complaint: str
) -> None:
    change_weights(folder, change)
    with pytest.raises(ValueError, match=complaint):
        load_model(folder)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_cut_off_weight_file_is_refused(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_model(folder)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"decoder.norm.bias": Trap()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load_model(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin", ".."])
def test_an_index_cannot_name_a_file_elsewhere(folder: Path, name: str) -> None:
    (folder.parent / "secret.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ValueError, match=r"no \.safetensors file of its own folder"):
        load_model(folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000])
def test_a_broken_index_is_refused(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("decoder", "num_layers", 10**9),
        ("decoder", "num_layers", "many"),
        ("decoder", "width", 2**40),
        ("decoder", "num_heads", 0),
        ("decoder", "num_heads", -4),
        ("decoder", "vocab_size", 1.5),
        ("decoder", "vocab_size", True),
        ("decoder", "layer_norm_eps", float("nan")),
        ("decoder", "dropout", float("inf")),
        ("decoder", "scale_embedding", 1),
        ("decoder", "positions", ["xpos"]),
        ("decoder", "unheard_of", 1),
        ("tower", "name", "hf-hub:somebody/trap"),
        ("tower", "name", "local-dir:/etc"),
        ("tower", "kind", "pickle"),
        ("tower", "mean", [0.5, 0.5]),
        ("tower", "image_size", 10**6),
        ("resampler", "num_latents", 10**9),
        ("tokenizer", "specials", "mine"),
        ("tokenizer", "num_words", None),
    ],
)
def test_a_config_with_a_wild_field_is_refused_before_anything_is_built(
    folder: Path, part: str, field: str, value: object
) -> None:
    values = json.loads((folder / "config.json").read_text())
    values[part][field] = value
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json: "):
        read_config(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"format_version": 1}',
        b'{"format_version": 99}',
        b"[" * 100_000,
        b" " * 5_000_000,
        b'{"format_version": 1, "name": "a", "tower": 1, "resampler": [], "decoder": null, "tokenizer": "x"}',
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_file_that_is_no_config_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        read_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="is not there"):
        load_model(folder)
