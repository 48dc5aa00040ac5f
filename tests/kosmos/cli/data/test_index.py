"""`kosmos data index`: indexes beside shards, and the folder of Energon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.tar import END
from kosmos.cli.main import main
from tests.data_pipelines.broken_shards import page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train-0.tar").write_bytes(page("a") + page("b") + END)
    (tmp_path / "train-1.tar").write_bytes(page("c") + END)
    return tmp_path


def test_a_second_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for written in (2, 0):
        assert main(["data", "index", str(folder)]) == 0
        assert capsys.readouterr().out == f"3 documents in 2 shards; {written} indexes written\n"


def test_a_torn_shard_is_named_and_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train-1.tar").write_bytes(page("c")[:513])
    assert main(["data", "index", str(folder), "--energon"]) == 1
    assert "train-1.tar, byte 0: truncated" in capsys.readouterr().err
    assert not (folder / ".nv-meta" / ".info.json").exists()


def test_the_folder_of_energon_is_made_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for read in (2, 0):
        assert main(["data", "index", str(folder), "--energon", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["energon"] == {"shards": 2, "documents": 3, "read": read}
    made = {path.name for path in (folder / ".nv-meta").iterdir()}
    assert made == {".info.json", "split.yaml", "dataset.yaml", "index.sqlite", "index.uuid"}


def test_energon_wants_one_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "index", str(folder / "train-0.tar"), "--energon"])
    assert end.value.code == 2
    assert "--energon takes one folder" in capsys.readouterr().err
