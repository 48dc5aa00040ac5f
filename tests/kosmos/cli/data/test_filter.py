"""`kosmos data filter` applies a set of rules as its flags change it, and says what became of every document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.rules.table import RULES, SETS
from kosmos.cli.data import filter as verb
from kosmos.cli.main import main
from tests.data_pipelines.written import document, encode, keys_of, noise, write_shard


@pytest.fixture
def captions(tmp_path: Path) -> str:
    return write_shard(
        tmp_path / "in" / "a.tar",
        {
            "good": document(encode(noise(1)), "a dog on the beach"),
            "short": document(encode(noise(2)), "a dog"),
            "person": document(encode(noise(3)), "<PERSON> walks a dog"),
            "small": document(encode(noise(4, 50, 90)), "a dog on the beach"),
        },
    )


def test_a_set_is_applied_and_reported(captions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "filter", captions, str(tmp_path / "out"), "--set", "captions", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["read"], report["written"]) == (4, 1)
    assert set(report["dropped"]) == {
        "min-words: too few words",
        "special-tags: special tag in the caption",
        "min-pictures: too few pictures",
    }


def test_flags_add_change_and_leave_out_rules(captions: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    changed = [
        "--rule",
        "min-side=40",
        "--rule",
        "min-characters=5",
        "--rule",
        "min-words=2",
        "--without",
        "special-tags",
        "--rule",
        "max-pictures",
    ]
    assert main(["data", "filter", captions, str(out), "--set", "captions", *changed]) == 0
    assert keys_of(out / "a.tar") == ["good", "short", "person", "small"]


def test_nothing_left_is_exit_code_1(captions: str, tmp_path: Path) -> None:
    assert main(["data", "filter", captions, str(tmp_path / "out"), "--set", "text"]) == 1


@pytest.mark.parametrize(
    "wrong, words",
    [
        (["--rule", "min-sides=4"], "unknown rule 'min-sides'; known rules: "),
        (["--rule", "min-side=big"], "write min-side=NUMBER"),
        (["--without", "bullets"], "not in the set"),
    ],
)
def test_wrong_rules_are_wrong_usage(
    captions: str, tmp_path: Path, wrong: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["data", "filter", captions, str(tmp_path / "out"), *wrong])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_list_names_every_rule_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["data", "filter", "--list"])
    listed = capsys.readouterr().out
    assert all(f"  {name}=" in listed for name in RULES)
    assert "min-side=64" in listed
    assert "Gopher, A.1.1" in listed


def test_the_flag_offers_the_sets_of_the_table() -> None:
    assert set(verb.SETS) == set(SETS)


def test_a_torn_shard_is_named_with_what_to_do(
    captions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torn.tar").write_bytes(Path(captions).read_bytes()[:2_000])
    assert main(["data", "filter", str(tmp_path / "torn.tar"), str(tmp_path / "out")]) == 1
    assert "torn.tar, byte" in (told := capsys.readouterr().err)
    assert "`kosmos data repair` saves" in told
    assert not (tmp_path / "out" / "torn.tar").exists()


@pytest.mark.parametrize("taken", ["in", "another"])
def test_rejects_never_take_the_place_of_other_shards(
    captions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], taken: str
) -> None:
    assert main(["data", "filter", captions, str(tmp_path / "another"), "--set", "captions"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tar")}
    rejected = str(tmp_path / taken)
    assert main(["data", "filter", captions, str(tmp_path / "out"), "--set", "text", "--rejected", rejected]) == 1
    assert "give a" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.tar")} == before
