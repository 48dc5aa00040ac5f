"""`kosmos data dedup` keeps the first of every document, and nothing an evaluation set holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kosmos.cli.main import main
from tests.data_pipelines.written import document, encode, keys_of, noise, write_shard


@pytest.fixture
def shard(tmp_path: Path) -> str:
    return write_shard(
        tmp_path / "in" / "a.tar",
        {
            "first": document(encode(noise(1)), "a dog"),
            "copy": document(encode(noise(1).resize((200, 160))), "the same dog"),
            "tested": document(encode(noise(2)), "a cat"),
        },
    )


def test_duplicates_and_evaluation_pictures_go(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = write_shard(tmp_path / "coco-000000.tar", {"x": document(encode(noise(2), "PNG"))})
    assert main(["data", "dedup", shard, str(tmp_path / "out"), "--json", "--against", test]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dropped"] == {"near-duplicate pictures": 1, "contaminated: coco-000000": 1}
    assert keys_of(tmp_path / "out" / "a.tar") == ["first"]


def test_criteria_and_names_are_chosen(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--by", "exact", "--against", f"mine={shard}", "--json"]
    assert main(["data", "dedup", shard, str(tmp_path / "out"), *flags]) == 1
    assert json.loads(capsys.readouterr().out)["dropped"] == {"contaminated: mine": 3}


@pytest.mark.parametrize(
    "wrong, words",
    [
        (["--by", "exact,words"], "'words' is no criterion"),
        (["--similarity", "75"], "no share"),
        (["--distance", "16"], "from 0 to 15"),
        (["--against", "a/val.tar", "b/val.tar"], "two evaluation sets are called 'val'"),
    ],
)
def test_wrong_flags_are_wrong_usage(
    shard: str, tmp_path: Path, wrong: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["data", "dedup", shard, str(tmp_path / "out"), *wrong])
    assert words in capsys.readouterr().err
