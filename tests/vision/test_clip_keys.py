"""Weights keep their values when they change their names, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.vision.towers import SMALL_CLIP, huggingface_tower, scramble, small_clip
from vision.clip_keys import hf_to_open_clip, open_clip_to_hf
from vision.encoder import ClipTower


def test_names_and_shapes_are_those_of_our_tower() -> None:
    renamed = hf_to_open_clip(huggingface_tower(SMALL_CLIP).model.state_dict())
    ours = ClipTower(SMALL_CLIP).state_dict()
    assert {name: weight.shape for name, weight in renamed.items()} == {name: w.shape for name, w in ours.items()}


def test_there_and_back_gives_the_same_weights(tmp_path: Path) -> None:
    state = huggingface_tower(SMALL_CLIP).model.state_dict()
    back = open_clip_to_hf(hf_to_open_clip(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], weight) for name, weight in state.items())
    save_file(back, tmp_path / "tower.safetensors")  # refuses tensors whose memory overlaps
    stored = load_file(tmp_path / "tower.safetensors")
    assert all(torch.equal(stored[name], weight) for name, weight in state.items())


def test_our_weights_run_in_transformers() -> None:
    tower = ClipTower(SMALL_CLIP)
    scramble(tower)
    huggingface_tower(SMALL_CLIP).model.load_state_dict(open_clip_to_hf(tower.state_dict()))


def test_renaming_works_without_data() -> None:
    with torch.device("meta"):
        state = ClipTower(SMALL_CLIP).state_dict()
    assert hf_to_open_clip(open_clip_to_hf(state)).keys() == state.keys()


def test_position_ids_of_older_files_are_ignored() -> None:
    assert hf_to_open_clip({"embeddings.position_ids": torch.arange(17)}) == {}


def test_foreign_and_incomplete_weights_are_named() -> None:
    state = dict(huggingface_tower(SMALL_CLIP).model.state_dict())
    del state["encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(ValueError, match=r"resblocks\.1\.attn\.in_proj_bias: k_proj missing"):
        hf_to_open_clip(state)
    with pytest.raises(ValueError, match=r"'encoder\.layers\.0\.gate\.weight' is no weight"):
        hf_to_open_clip({"encoder.layers.0.gate.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"ls_1\.gamma' has no place"):
        open_clip_to_hf(ClipTower(small_clip(name="ViT-M-16-alt")).state_dict())
