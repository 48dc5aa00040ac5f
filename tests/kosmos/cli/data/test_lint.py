"""`kosmos data lint`: a table for people, a line a finding for machines, 1 where anything is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.tar import END
from kosmos.cli.main import main
from tests.data_pipelines.broken_shards import file, page, torture_folder
from tests.data_pipelines.test_lint import FINDINGS


def test_a_sound_shard_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.tar").write_bytes(page("a") + END)
    assert main(["data", "lint", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "1 documents in 1 shards: nothing found\n"
    assert main(["data", "lint", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_machines_get_a_line_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = torture_folder(tmp_path / "torture")
    assert main(["data", "lint", str(folder / "*.tar"), "--json"]) == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert len(lines) == sum(len(rows) for rows in FINDINGS.values())
    assert all(set(row) == {"shard", "key", "offset", "reason", "detail"} for row in lines)
    assert "10/10 shards" in printed.err


def test_people_get_counts_and_the_first_of_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = b"".join(file(f"k{number}.json", "{") for number in range(7))
    (tmp_path / "s.tar").write_bytes(broken + file("\x1b[31m.json", "{}") + END)
    assert main(["data", "lint", str(tmp_path), "--no-decode"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("8 documents in 1 shards: 9 findings\n\nbroken JSON: 7\n")
    assert out.count("'k") == 5
    assert "... and 2 more (--json prints all)" in out
    assert "\x1b" not in out


def test_a_folder_without_shards_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "lint", str(tmp_path)]) == 1
    assert "holds no .tar; `kosmos data create`" in capsys.readouterr().err


def test_a_pipe_needs_its_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.tar").write_bytes(page("a") + END)
    assert main(["data", "lint", f"pipe:cat {tmp_path / 's.tar'}"]) == 1
    assert "--allow-pipe" in capsys.readouterr().err
    assert main(["data", "lint", f"pipe:cat {tmp_path / 's.tar'}", "--allow-pipe"]) == 0
