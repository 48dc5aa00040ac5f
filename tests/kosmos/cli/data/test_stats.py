"""`kosmos data stats` prints what is in shards as tables or JSON, and draws it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kosmos.cli.main import main
from tests.data_pipelines.written import document, encode, noise, write_shard


@pytest.fixture
def shard(tmp_path: Path) -> str:
    return write_shard(tmp_path / "a.tar", {"a": document(encode(noise(1)), "a dog on the beach", source="web")})


def test_tokens_are_counted_with_the_built_in_vocabulary(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", shard, "--json", "--no-languages"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["totals"]["tokens"] >= found["totals"]["words"] == 5
    assert found["categories"]["sources"] == {"web": 1}


@pytest.mark.slow
def test_tables_and_plots(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", shard, "--plots", str(tmp_path / "plots")]) == 0
    assert "languages\n  en" in capsys.readouterr().out
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 9


def test_a_file_that_is_no_tokenizer_is_named(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").write_bytes(b"no model")
    assert main(["data", "stats", shard, "--tokenizer", str(tmp_path / "model")]) == 1
    assert "SentencePiece" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["stats"], ["preview", "--output", "page.html"]])
def test_a_torn_shard_is_sent_to_repair(
    shard: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    path = Path(shard)
    monkeypatch.chdir(path.parent)
    torn = path.with_name("torn.tar")
    torn.write_bytes(path.read_bytes()[:600])
    assert main(["data", *verb, str(torn)]) == 1
    assert "`kosmos data repair` saves what is whole" in capsys.readouterr().err
    assert not Path("page.html").exists()
