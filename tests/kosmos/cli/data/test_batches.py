"""`kosmos data batches`: what training would read, said a line a step, and gone on with from where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.shard import ShardWriter
from kosmos.cli.main import main
from text.document import Document, Image, Text

STEPS = ["--steps", "2", "--rows", "128", "--lanes", "1", "--json"]


@pytest.fixture
def words(tmp_path: Path) -> str:
    """A shard of documents of different lengths."""
    with ShardWriter(tmp_path / "words" / "0.tar") as writer:
        for number in range(1, 40):
            writer.write(f"d{number}", Document((Text("a dog runs over the sand " * number),)))
    return str(tmp_path / "words")


def test_a_run_goes_on_where_its_state_says(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "batches", words, *STEPS, "--steps", "4"]) == 0
    wanted = _batches(capsys)
    state = ["--state", str(tmp_path / "state.json")]
    assert main(["data", "batches", words, *STEPS, *state]) == 0
    first = _batches(capsys)
    assert main(["data", "batches", words, *STEPS, *state]) == 0
    assert first + _batches(capsys) == wanted


def test_a_state_of_other_batches_is_refused(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(tmp_path / "state.json")]
    assert main(["data", "batches", words, *STEPS, *state]) == 0
    assert main(["data", "batches", words, *STEPS, *state, "--look-ahead", "1"]) == 1
    assert "batch.look_ahead was 16, now 1" in capsys.readouterr().err


def test_a_batch_without_a_picture_that_opens_is_an_empty_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ShardWriter(tmp_path / "broken" / "0.tar") as writer:
        writer.write("d", Document((Image(b"\x89PNG\r\n\x1a\nbroken"), Text("a dog runs"))))
    assert main(["data", "batches", str(tmp_path / "broken"), *STEPS, "--max-skipped", "1"]) == 0
    assert {batch["documents"] for batch in _batches(capsys)} == {0}


def _batches(capsys: pytest.CaptureFixture[str]) -> list[dict[str, int]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [{name: value for name, value in line.items() if name != "step"} for line in lines]
