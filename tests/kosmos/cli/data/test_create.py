"""`kosmos data create` says what it reads, counts what it drops, and answers wrong usage in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.sources.formats import SOURCES
from kosmos.cli.data.create import FORMATS
from kosmos.cli.main import main
from tests.data_pipelines.sources.piles import photo, put, put_lines, put_tar


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["data", "create", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_format_is_said_on_stderr_and_the_report_is_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = put_lines(tmp_path / "a.jsonl", [{"text": "One"}, {"text": ""}])
    code, out, err = _run(capsys, file, tmp_path / "out", "--json")
    assert code == 0
    assert err.startswith("reading as text-records (found out; overrule by --format)\n")
    assert json.loads(out)["dropped"] == {"no words": 1}
    assert (tmp_path / "out" / "documents-000000.tar.idx").is_file()


def test_the_formats_offered_are_those_there_are() -> None:
    assert sorted(FORMATS) == sorted(SOURCES)


def test_a_wrong_guess_is_overruled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = put(tmp_path / "a.jsonl", "not json at all\n")
    code, out, err = _run(capsys, file, tmp_path / "out", "--format", "text", "--sample-by", "line")
    assert (code, err.splitlines()[0]) == (0, "reading as text")
    assert out.startswith("1 documents read, 1 written")


def test_the_fields_of_captions_and_the_size_of_shards_are_the_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {
        f"{key}.{part}": content for key in "abc" for part, content in (("jpg", photo(1)), ("json", {"alt": ["A dog"]}))
    }
    tar = put_tar(tmp_path / "a.tar", members)
    arguments = ("--captions", "alt", "--documents-per-shard", 2, "--name", "dogs")
    code, out, _ = _run(capsys, tar, tmp_path / "out", *arguments)
    assert code == 0
    assert out.startswith("3 documents read, 3 written, 0 dropped")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["dogs-000000.tar", "dogs-000001.tar"]


def test_nothing_written_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, put_lines(tmp_path / "a.jsonl", [{"text": ""}]), tmp_path / "out")
    assert (code, out.splitlines()[0]) == (1, "1 documents read, 0 written, 1 dropped")


def test_an_unknown_source_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _run(capsys, put(tmp_path / "a.bin", "x"), tmp_path / "out")
    assert code == 1
    assert "looks like no format known here" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "wrong", [("--format", "xml"), ("--languages", "en,en"), ("--documents-per-shard", "0"), ("--name", "../x")]
)
def test_wrong_usage_is_said_with_the_usage_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]
) -> None:
    file = put(tmp_path / "a.txt", "x")
    with pytest.raises(SystemExit) as end:
        _run(capsys, file, tmp_path / "out", *wrong)
    assert end.value.code == 2
    assert "usage: kosmos data create" in capsys.readouterr().err
