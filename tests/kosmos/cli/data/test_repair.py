"""`kosmos data repair`: what it writes is sound, and its report balances."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kosmos.cli.main import main
from tests.data_pipelines.broken_shards import torture_folder


def test_what_repair_writes_lint_finds_nothing_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = torture_folder(tmp_path / "torture"), tmp_path / "out"
    assert main(["data", "repair", str(folder), str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["read"] == report["written"] + sum(report["dropped"].values()) == 41
    assert main(["data", "lint", str(out)]) == 0
    assert "24 documents in 9 shards: nothing found" in capsys.readouterr().out


def test_other_options_need_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = torture_folder(tmp_path / "torture"), tmp_path / "out"
    assert main(["data", "repair", str(folder / "good.tar"), str(out)]) == 0
    assert "3 documents read, 3 written, 0 dropped" in capsys.readouterr().out
    assert main(["data", "repair", str(folder / "good.tar"), str(out), "--no-decode"]) == 1
    assert "give a new folder" in capsys.readouterr().err


def test_no_shard_is_written_over_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = torture_folder(tmp_path / "torture")
    assert main(["data", "repair", str(folder), str(folder)]) == 1
    assert "written over itself" in capsys.readouterr().err
