"""`kosmos serve` reads flag, else environment, else default; an empty variable says nothing."""

from __future__ import annotations

import argparse

import pytest

from kosmos.cli.main import main
from kosmos.cli.serve import add_arguments


def read(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_a_flag_wins_over_its_variable_and_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read().max_beam_tokens == 8192
    monkeypatch.setenv("KOSMOS_MAX_BEAM_TOKENS", "100")
    assert read().max_beam_tokens == 100
    assert read("--max-beam-tokens", "7").max_beam_tokens == 7
    for name in ("KOSMOS_MAX_BEAM_TOKENS", "KOSMOS_MODEL", "KOSMOS_PORT", "KOSMOS_QUANTIZE"):
        monkeypatch.setenv(name, "")
    given = read()
    assert (given.max_beam_tokens, given.model, given.port, given.quantize) == (8192, "tiny", 8000, "none")


def test_a_model_without_a_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", ""]) == 1
    assert capsys.readouterr().err == (
        "kosmos serve: no model is named; give `tiny`, a checkpoint or run folder, or a hub id\n"
    )
