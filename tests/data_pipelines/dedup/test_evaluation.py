"""Documents that hold an evaluation text or picture are recognised, and others are not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from data_pipelines.dedup.evaluation import EvaluationSet, collect, load, word_runs
from data_pipelines.dedup.exact import normalised_words
from data_pipelines.dedup.perceptual import PictureHash, picture_hash
from data_pipelines.glance import reduced
from tests.data_pipelines.written import document, encode, noise, write_shard

LONG = "Which of these seven animals would you rather not meet alone at night in a dark and silent forest?"
SHORT = "A brown dog catches a frisbee in the air."
TINY = "What is the answer?"


def read(tmp_path: Path, source: str) -> EvaluationSet:
    target = tmp_path / "state" / "0.npz"
    collect("set", source, target)
    return load("set", target, 10)


def seen(data: bytes) -> list[PictureHash]:
    found = picture_hash(reduced(data))
    assert found is not None
    return [found]


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for text in (LONG, SHORT, TINY):
            file.write(json.dumps({"item": {"question": text, "choices": [text, 3, None]}}) + "\n")
    return str(path)


@pytest.mark.parametrize(
    "text, held",
    [
        (f"He asked me: {LONG.upper()} And I went.", True),
        (" ".join(LONG.split()[3:16]), True),  # 13 of its words
        (" ".join(LONG.split()[3:15]), False),
        (f"Look! {SHORT}", True),
        ("A brown dog catches a frisbee in the water.", False),
        (f"{TINY} {TINY}", False),
        ("", False),
    ],
)
def test_thirteen_words_in_a_row_or_a_whole_short_text_are_a_hit(
    questions: str, tmp_path: Path, text: str, held: bool
) -> None:
    assert read(tmp_path, questions).is_in(normalised_words(text), []) is held


def test_texts_too_short_to_look_for_are_counted(questions: str, tmp_path: Path) -> None:
    report = collect("set", questions, tmp_path / "x.npz")
    assert report.noted == {"set: texts looked for": 4, "set: texts too short to look for": 2}
    assert report.balanced


def test_pictures_and_every_string_of_a_shard_are_looked_for(tmp_path: Path) -> None:
    picture = noise(3)
    shard = write_shard(tmp_path / "eval.tar", {"a": document(encode(picture), qas=[{"question": LONG}])})
    found = read(tmp_path, shard)
    assert found.is_in([], seen(encode(picture.resize((200, 170)), quality=40)))
    assert not found.is_in([], seen(encode(noise(4))))
    assert found.is_in(normalised_words(LONG), [])


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": "b"}\n{"a": \n')
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2"):
        collect("set", str(tmp_path / "x.jsonl"), tmp_path / "x.npz")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.jsonl, line 1"):
        collect("set", str(tmp_path / "deep.jsonl"), tmp_path / "x.npz")


def test_a_run_of_words_has_the_same_hash_wherever_it_stands() -> None:
    words = ["one", "two", "three", "four", "five", "six"]
    assert word_runs(words, 3)[2] == word_runs(words[2:5], 3)[0]
    assert len(set(word_runs(words, 3).tolist())) == 4
    assert word_runs(["two", "one", "three"], 3)[0] != word_runs(words[:3], 3)[0]
    assert word_runs(words, 7).tolist() == []
