"""`kosmos data convert` writes what the format can hold and says what it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.shard import ShardWriter
from kosmos.cli.main import main
from tests.data_pipelines.sources.piles import photo
from text.document import Document, Image, Text


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A pair, and words alone."""
    with ShardWriter(tmp_path / "set-0.tar") as writer:
        writer.write("a", Document((Image(photo(1)), Text("A dog."))))
        writer.write("b", Document((Text("Words."),)))
    return tmp_path / "set-0.tar"


def test_the_report_says_what_a_pair_cannot_hold(
    shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "convert", str(shard), str(tmp_path / "out"), "--to", "coco", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["written"], report["dropped"]) == (1, {"cannot hold: not one picture": 1})
    known = json.loads((tmp_path / "out" / "set-0.json").read_text())
    assert known["annotations"] == [{"id": 1, "image_id": 1, "caption": "A dog."}]
    assert known["images"] == [{"id": 1, "file_name": "images/set-0/a.0.jpg", "width": 12, "height": 8}]
    assert (tmp_path / "out" / "images" / "set-0" / "a.0.jpg").read_bytes() == photo(1)


def test_an_unknown_format_is_wrong_usage(shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "convert", str(shard), str(tmp_path / "out"), "--to", "tfrecord"])
    assert end.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_a_torn_shard_is_named(shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard.write_bytes(shard.read_bytes()[:1_100])
    assert main(["data", "convert", str(shard), str(tmp_path / "out"), "--to", "text"]) == 1
    said = capsys.readouterr().err
    assert "set-0.tar, byte" in said
    assert "kosmos data repair" in said
    assert not (tmp_path / "out" / "set-0.jsonl").exists()
