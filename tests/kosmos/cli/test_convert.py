"""`kosmos convert` goes both ways and comes back to the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import load_model, save_checkpoint
from kosmos.cli.main import main
from kosmos.model import KosmosModel
from kosmos.transformer.config import PositionScheme
from tests.models import small_config
from text.tokenizer import Tokenizer


def _save_ours(tokenizer: Tokenizer, folder: Path, *, positions: PositionScheme) -> None:
    """A small model built like Kosmos-2, but for its positions where another scheme is asked for."""
    small = small_config(tokenizer, positions=positions)
    config = replace(
        small,
        tower=replace(small.tower, name="ViT-L-14-quickgelu"),
        resampler=replace(small.resampler, num_heads=small.decoder.num_heads),
    )
    save_checkpoint(
        KosmosModel(config),
        folder,
        tokenizer_model=tokenizer.model,
        chat_template=DEFAULT_CHAT_TEMPLATE,
        card="# small\n",
    )


def test_there_and_back_gives_the_same_model(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    ours, theirs, back = tmp_path / "ours", tmp_path / "theirs", tmp_path / "back"
    _save_ours(small_tokenizer, ours, positions="sinusoidal")
    assert main(["convert", str(ours), str(theirs)]) == 0
    assert main(["convert", str(theirs), str(back)]) == 0
    assert (back / "tokenizer.model").read_bytes() == (ours / "tokenizer.model").read_bytes()
    before, after = load_model(ours).state_dict(), load_model(back).state_dict()
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_dtype_is_that_of_the_file(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    _save_ours(small_tokenizer, tmp_path / "ours", positions="sinusoidal")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--dtype", "bfloat16"]) == 0
    with safe_open(tmp_path / "theirs" / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118 (no mapping)


def test_a_model_of_another_build_is_refused_in_one_sentence(
    tmp_path: Path, small_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    _save_ours(small_tokenizer, tmp_path / "ours", positions="xpos")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 1
    assert capsys.readouterr().err.startswith("kosmos convert: small is not built like Kosmos-2 in positions, ")
    assert not (tmp_path / "theirs").exists()
