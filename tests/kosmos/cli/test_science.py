"""`kosmos science`: runs a claim to a table, a plot and lines of JSON; help loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kosmos.cli.main import main
from tests.kosmos.science.conftest import data

__all__ = ["data"]  # the miniature folder of the claims' own tests


def test_help_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys\nfrom kosmos.cli.main import main\n"
        "try:\n    main(['science', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stability" in done.stdout


@pytest.mark.slow
def test_stability_runs_once_and_is_read_again(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["science", "stability", "--quick", "--seeds", "1", "--steps", "2", "--output", str(tmp_path / "out")]
    assert main([*words, "--data", str(data), "--json"]) == 0
    first = capsys.readouterr()
    assert "16/16 subln-4-0.1-seed0" in first.err
    rows = [json.loads(line) for line in first.out.splitlines()]
    assert len(rows) == 17
    assert {row["science"] for row in rows} == {"stability"}
    assert (tmp_path / "out" / "stability.svg").stat().st_size > 0
    assert main([*words, "--data", str(data), "--json"]) == 0
    again = capsys.readouterr()
    assert again.err == ""
    assert again.out == first.out
    assert main(["science", "stability", "--read", "--output", str(tmp_path / "out")]) == 0
    assert "| layers |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_plot_goes_where_it_is_wanted(data: Path, tmp_path: Path) -> None:
    words = ["science", "stability", "--quick", "--seeds", "1", "--steps", "1", "--output", str(tmp_path / "out")]
    assert main([*words, "--data", str(data), "--plot", str(tmp_path / "here.png")]) == 0
    assert (tmp_path / "here.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--read", "--output", "nowhere"], "nowhere holds no finished run; leave --read out to do them"),
        (["--data", "nowhere"], "nowhere has no folder text; give the folder of the data by --data"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["science", "stability", *words]) == 1
    assert capsys.readouterr().err == f"kosmos science: {sentence}\n"
