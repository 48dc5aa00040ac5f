"""`kosmos data mix` says what a mixture gives, and writes it out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.shard import ShardWriter, read_documents
from kosmos.cli.main import main
from text.document import Document, Text


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Two folders of one shard, 30 and 10 documents of the same words, weighed 1 to 1."""
    for name, count in (("web", 30), ("books", 10)):
        with ShardWriter(tmp_path / name / "a.tar") as writer:
            for number in range(count):
                writer.write(f"{number:02d}", Document((Text("a dog on the beach"),)))
    path = tmp_path / "mixture.yaml"
    path.write_text("splits: {train: {blend: [{path: web}, {path: books}]}, val: {path: books}}")
    return path


def test_the_table_tells_shares_and_epochs(mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mix", str(mixture), "--tokens", "1e6", "--sample", "20"]) == 0
    title, head, web, books = capsys.readouterr().out.splitlines()
    assert title == "weights by document, epochs over 1,000,000 tokens"
    assert head.split()[:4] == ["component", "documents", "pictures", "tokens"]
    assert web.split()[:2] == ["web", "30"]
    assert web.split()[3].startswith("~")  # 20 of 30 were read
    assert books.split()[4:6] == ["50.0%", "50.0%"]
    assert float(books.split()[6]) == pytest.approx(3 * float(web.split()[6]), rel=0.01)


def test_machines_get_one_object(mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mix", str(mixture), "--split", "val", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["by"] == "document"
    assert [(one["name"], one["documents"], one["by_token"]) for one in found["components"]] == [("books", 10, 1.0)]


def test_it_is_written_out_in_proportion(mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["data", "mix", str(mixture), "--write", str(out), "--documents", "16", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["written"], report["noted"]) == (16, {"from books": 8, "from web": 8})
    assert len(list(read_documents(str(out / "mixed-000000.tar")))) == 16


def test_a_mixture_without_an_end_is_not_written_without_a_number(mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "mix", str(mixture), "--write", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert not (tmp_path / "out").exists()


def test_one_epoch_of_a_mixture_by_epoch_is_its_natural_end(
    mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixture.write_text("splits: {train: {blend_epochized: [{path: web}, {path: books, repetitions: 2.5}]}}")
    assert main(["data", "mix", str(mixture), "--write", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["noted"] == {"from books": 25, "from web": 30}


def test_a_mistake_in_the_mixture_is_one_sentence(mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture.write_text("splits: {train: {blend: [{path: web, wieght: 2}]}}")
    assert main(["data", "mix", str(mixture)]) == 1
    assert "did you mean `weight`?" in capsys.readouterr().err
