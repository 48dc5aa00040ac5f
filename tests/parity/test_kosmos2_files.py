"""Kosmos-2 files of transformers come in and go out unchanged; files nobody should trust stay outside."""

from __future__ import annotations

import json
import os
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

from kosmos.checkpoint import empty_model
from kosmos.huggingface import config_of_kosmos2, export_kosmos2, is_kosmos2, load_kosmos2, weights_of_kosmos2
from kosmos.model import KosmosModel
from kosmos.presets import preset
from text.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
EMBEDDING, HEAD = "text_model.model.embed_tokens.weight", "text_model.lm_head.weight"


@pytest.fixture
def folder(peer_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(peer_folder, tmp_path / "theirs"))


def same_state(first: KosmosModel, second: KosmosModel) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def spoil(folder: Path, **changes: object) -> None:
    """Change config.json; `text.x` and `vision.x` are written text__x and vision__x."""
    values = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        part, _, field = name.rpartition("__")
        (values[f"{part}_config"] if part else values)[field] = value
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_round_trip_gives_the_same_file_back(
    peer: Kosmos2ForConditionalGeneration, folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    converted = Kosmos2ForConditionalGeneration(deepcopy(peer.config)).to(dtype)
    converted.load_state_dict(peer.state_dict())
    converted.save_pretrained(folder)
    model, words = load_kosmos2(folder, "cpu", dtype)
    export_kosmos2(model, tmp_path / "back", words)
    for name in (WEIGHTS, "sentencepiece.bpe.model"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()


def test_transformers_opens_what_was_exported(
    peer: Kosmos2ForConditionalGeneration, folder: Path, tmp_path: Path
) -> None:
    export_kosmos2(load_kosmos2(folder)[0], tmp_path / "back", b"words")
    opened = Kosmos2ForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert opened.config.to_diff_dict() == Kosmos2ForConditionalGeneration.from_pretrained(folder).config.to_diff_dict()
    for name, tensor in peer.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor)


def test_the_published_shape_has_the_published_names_and_counts() -> None:
    with torch.device("meta"):
        theirs = Kosmos2ForConditionalGeneration(Kosmos2Config())
    expected = {name: tensor.shape for name, tensor in theirs.state_dict().items() if name != HEAD}
    assert len(expected) == 885
    ours = {name: tensor.shape for name, tensor in weights_of_kosmos2(empty_model(preset("kosmos2")))}
    assert ours == expected


def test_a_config_without_fields_is_the_published_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "kosmos-2", "text_config": {}, "vision_config": {}}')
    assert config_of_kosmos2(tmp_path) == preset("kosmos2")
    Kosmos2Config().save_pretrained(tmp_path)
    assert config_of_kosmos2(tmp_path) == preset("kosmos2")


def test_sharded_weights_are_read_whole(
    peer: Kosmos2ForConditionalGeneration, folder: Path, small_tokenizer: Tokenizer
) -> None:
    whole = load_kosmos2(folder)[0]
    (folder / WEIGHTS).unlink()
    peer.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    model, words = load_kosmos2(folder)
    assert same_state(model, whole)
    assert words == small_tokenizer.model


def test_older_files_with_computed_tables_and_a_stored_head_are_read(folder: Path) -> None:
    whole = load_kosmos2(folder)[0]
    state = load_file(folder / WEIGHTS)
    state[HEAD] = state[EMBEDDING].clone()
    state["text_model.model.embed_positions.weights"] = torch.zeros(2050, 64)
    state["vision_model.model.embeddings.position_ids"] = torch.arange(10)[None]
    save_file(state, folder / WEIGHTS)
    assert same_state(load_kosmos2(folder)[0], whole)
    del state[EMBEDDING]
    save_file(state, folder / WEIGHTS)
    assert same_state(load_kosmos2(folder)[0], whole)


def test_a_head_of_its_own_is_refused(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state[HEAD] = state[EMBEDDING] + 1
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ValueError, match="output head differs from the token embedding"):
        load_kosmos2(folder)


# ---- pickled weights ----


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_pickled_weights_are_read_as_plain_tensors(folder: Path, zipped: bool, sharded: bool) -> None:
    whole = load_kosmos2(folder)[0]
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    if not sharded:
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    else:
        names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
        places = {name: names[place % 2] for place, name in enumerate(state)}
        for file in names:
            part: dict[str, Tensor] = {name: state[name] for name in state if places[name] == file}
            torch.save(part, folder / file, _use_new_zipfile_serialization=zipped)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert same_state(load_kosmos2(folder)[0], whole)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_something_is_refused_unrun(folder: Path, tmp_path: Path, zipped: bool) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (folder / WEIGHTS).unlink()
    torch.save({EMBEDDING: Trap()}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is no file of plain weights"):
        load_kosmos2(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": {"b": torch.zeros(1)}}], ids=str)
def test_a_pickle_without_weights_is_refused(folder: Path, content: object) -> None:
    (folder / WEIGHTS).unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load_kosmos2(folder)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 no zip"])
def test_a_broken_pickle_is_refused(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is no file of plain weights"):
        load_kosmos2(folder)


# ---- by hub id ----


def test_a_hub_id_is_found_in_the_local_cache_when_offline(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    repository = tmp_path / "cache" / "models--somebody--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / ("0" * 40))
    for place in ("huggingface_hub.constants", "huggingface_hub._snapshot_download.constants"):
        monkeypatch.setattr(f"{place}.HF_HUB_CACHE", str(tmp_path / "cache"))
    model, _ = load_kosmos2("somebody/small")
    assert model.config.decoder.width == 64


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("somebody/nowhere", "not in the local cache and the hub cannot be reached"),
        ("not a name!", "neither a folder nor a hub id"),
        ("a/b/c", "neither a folder nor a hub id"),
    ],
)
def test_a_name_that_leads_nowhere_says_so_in_a_sentence(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_kosmos2(name)


# ---- what is not understood ----


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "kosmos-2.5"},
        {"text__activation_function": "relu"},
        {"text__add_cross_attention": True},
        {"text__eos_token_id": 7},
        {"text__pad_token_id": 0},
        {"text__layers": 10**9},
        {"text__embed_dim": "wide"},
        {"text__attention_heads": 0},
        {"text__attention_heads": 5},
        {"text__layer_norm_eps": None},
        {"vision__hidden_act": "relu"},
        {"vision__num_channels": 1},
        {"vision__layer_norm_eps": 1e-6},
        {"vision__image_size": [42, 42]},
        {"vision__patch_size": 0},
        {"text_config": [1]},
    ],
    ids=str,
)
def test_what_cannot_be_computed_rightly_is_refused_by_name(folder: Path, changes: dict[str, object]) -> None:
    spoil(folder, **changes)
    with pytest.raises(ValueError, match=r"config"):
        load_kosmos2(folder)


def test_fields_that_change_no_result_are_ignored_and_code_is_never_fetched(folder: Path) -> None:
    whole = load_kosmos2(folder)[0]
    spoil(folder, auto_map={"AutoModel": "modeling.Trap"}, text__layerdrop=0.5, text__use_cache=False, vision__x=1)
    (folder / "modeling.py").write_text("raise SystemExit")
    assert same_state(load_kosmos2(folder)[0], whole)


def test_other_names_of_a_field_are_understood(folder: Path) -> None:
    expected = config_of_kosmos2(folder)
    values = json.loads((folder / "config.json").read_text())
    text = values["text_config"]
    text |= {"hidden_size": text.pop("embed_dim"), "num_hidden_layers": text.pop("layers")}
    text["num_attention_heads"] = text.pop("attention_heads")
    (folder / "config.json").write_text(json.dumps(values))
    assert config_of_kosmos2(folder) == expected


def test_only_a_kosmos_2_folder_is_taken_for_one(folder: Path, tmp_path: Path) -> None:
    assert is_kosmos2(folder)
    assert not is_kosmos2(tmp_path)
    spoil(folder, model_type="llama")
    assert not is_kosmos2(folder)


def test_a_folder_without_words_is_refused(folder: Path) -> None:
    (folder / "sentencepiece.bpe.model").unlink()
    with pytest.raises(ValueError, match=r"holds no sentencepiece\.bpe\.model"):
        load_kosmos2(folder)


def test_a_weight_of_nobody_is_refused(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save_file({**state, "text_model.model.trap": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="has unknown 1 weights"):
        load_kosmos2(folder)
    save_file({**state, "vision_model.model.trap": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="'trap' is no weight of a CLIP tower"):
        load_kosmos2(folder)


def test_a_model_that_is_no_kosmos_2_is_not_exported(folder: Path, tmp_path: Path) -> None:
    config = config_of_kosmos2(folder)
    other = KosmosModel(replace(config, decoder=replace(config.decoder, positions="xpos")))
    with pytest.raises(ValueError, match="not built like Kosmos-2 in positions"):
        export_kosmos2(other, tmp_path / "back", b"")
    assert not (tmp_path / "back").exists()
