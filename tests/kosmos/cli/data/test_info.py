"""`kosmos data info`: counts and a document as it reads, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.tar import END
from kosmos.cli.main import main
from tests.data_pipelines.broken_shards import drawn, page


def test_people_see_counts_and_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.tar").write_bytes(page("a", drawn(), words="red \x1b[2J square") + page("b") + END)
    assert main(["data", "info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "2 documents in 1 shards" in out
    assert "keys a ... b" in out
    assert "red \N{REPLACEMENT CHARACTER}[2J square" in out
    assert "\x1b" not in out


def test_machines_get_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.tar").write_bytes(page("a", drawn()) + END)
    assert main(["data", "info", str(tmp_path / "s.tar"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["documents"], found["parts"], found["torn"]) == (1, {"N.png": 1, "json": 1}, [])


def test_a_torn_shard_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.tar").write_bytes(page("a")[:600])
    (tmp_path / "t.tar").write_bytes(page("a")[:512] + b"x" * 512 + b"torn" * 128)
    assert main(["data", "info", str(tmp_path)]) == 1
    assert "t.tar, byte 1024: torn header; `kosmos data lint` says more" in capsys.readouterr().err


def test_real_captions_are_counted(kosmos_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", str(kosmos_data / "flickr8k" / "val-000000.tar"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parts"] == {"jpg": found["documents"], "json": found["documents"]}
    assert found["documents"] > 100
