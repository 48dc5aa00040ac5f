"""`kosmos convert` goes both ways and comes back to the same weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from safetensors import safe_open

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import load_model, save_checkpoint
from kosmos.cli.main import main
from kosmos.model import KosmosModel
from kosmos.pretrained import load
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
    assert _stored(tmp_path / "theirs") == {"BF16"}


def test_a_model_of_another_build_is_refused_in_one_sentence(
    tmp_path: Path, small_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    _save_ours(small_tokenizer, tmp_path / "ours", positions="xpos")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 1
    assert capsys.readouterr().err.startswith("kosmos convert: small is not built like Kosmos-2 in positions, ")
    assert not (tmp_path / "theirs").exists()


def test_each_weight_stays_as_the_source_has_it(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    ours, half, back = tmp_path / "ours", tmp_path / "half", tmp_path / "back"
    _save_ours(small_tokenizer, ours, positions="sinusoidal")
    assert main(["convert", str(ours), str(half), "--to", "kosmos", "--dtype", "bfloat16"]) == 0
    assert main(["convert", str(half), str(back)]) == 0
    for folder in (half, back):
        assert _stored(folder) == {"BF16"}
    assert (back / "sentencepiece.bpe.model").exists(), "to the other format, where nothing else is asked"


def test_weights_of_several_formats_are_exported_in_the_widest(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    """As a model has them that was opened for decoding in bf16 and saved."""
    _save_ours(small_tokenizer, tmp_path / "ours", positions="sinusoidal")
    load(tmp_path / "ours", dtype="bfloat16").save(tmp_path / "mixed")
    assert _stored(tmp_path / "mixed") == {"BF16", "F32"}
    assert main(["convert", str(tmp_path / "mixed"), str(tmp_path / "theirs")]) == 0
    assert _stored(tmp_path / "theirs") == {"F32"}


def test_the_built_in_model_is_copied_whole_in_our_format(tmp_path: Path) -> None:
    assert main(["convert", "tiny", str(tmp_path / "copy"), "--to", "kosmos"]) == 0
    built_in = Path(str(files("kosmos") / "tiny"))
    for file in built_in.iterdir():
        if file.name != "model.safetensors":
            assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes()
    assert _stored(tmp_path / "copy") == _stored(built_in)
    before, after = load_model(built_in).state_dict(), load_model(tmp_path / "copy").state_dict()
    assert all(before[name].equal(after[name]) for name in before)


def test_the_built_in_model_is_no_kosmos2_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "tiny", str(tmp_path / "theirs")]) == 1
    error = capsys.readouterr().err
    assert error == (
        "kosmos convert: tiny is not built like Kosmos-2 in positions, tower, special tokens, so it cannot be exported"
        " as one; keep it in our own format (`kosmos convert --to kosmos`)\n"
    )


@pytest.mark.parametrize(("source", "output", "code"), [("", "out", 1), (" ", "out", 1), ("tiny", "", 2)])
def test_a_name_that_is_empty_is_said_to_be(
    source: str, output: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) if code == 2 else nullcontext():
        assert main(["convert", source, output]) == code
    assert ("no model is named" if code == 1 else "no output is named") in capsys.readouterr().err


def _stored(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
