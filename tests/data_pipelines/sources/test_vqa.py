"""VQAv2's two files become pictures with their questions and the answers that most people gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.sources.source import Options
from tests.data_pipelines.sources.piles import entries, found, photo, put, reason, said

ASKED = [
    {"question_id": 90, "image_id": 9, "question": "What is it?"},
    {"question_id": 70, "image_id": 7, "question": "What colour?"},
    {"question_id": 91, "image_id": 9, "question": "How many?"},
    {"question_id": 92, "image_id": 5, "question": "Where?"},
]
PEOPLE = [{"answer": "one", "answer_id": 1}, {"answer": "two", "answer_id": 2}, {"answer": "two", "answer_id": 3}]
ANSWERED = [
    {"question_id": 70, "image_id": 7, "multiple_choice_answer": "red", "answers": PEOPLE},
    {"question_id": 91, "image_id": 9, "answers": PEOPLE},
    {"question_id": 90, "image_id": 9, "multiple_choice_answer": "a dog"},
]


def _files(folder: Path) -> tuple[Path, Path]:
    put(folder / "train2014" / "COCO_train2014_000000000009.jpg", photo(9))
    put(folder / "train2014" / "000000000007.jpg", photo(7))
    put(folder / "train2014" / "000000000005.jpg", photo(5))
    questions = put(folder / "questions.json", {"questions": ASKED, "data_subtype": "train2014"})
    return questions, put(folder / "annotations.json", {"annotations": ANSWERED, "info": {}})


@pytest.mark.parametrize("turned", [False, True])
def test_a_picture_comes_with_all_its_questions_in_order(turned: bool, tmp_path: Path) -> None:
    files = _files(tmp_path)[:: -1 if turned else 1]
    assert found(*files) == "vqa"
    first, second, unanswered = entries(*files, options=Options(images=tmp_path / "train2014"))
    dog = ["[Question: What is it? Answer:]", "a dog", "[Question: How many? Answer:]", "two"]
    assert said(first) == [photo(9), *dog]
    assert said(second) == [photo(7), "[Question: What colour? Answer:]", "red"]
    assert reason(unanswered) == "no words"
    every = entries(*files, options=Options(images=tmp_path / "train2014", each="caption"))
    assert [said(entry) for entry in every[:2]] == [[photo(9), *dog[:2]], [photo(9), *dog[2:]]]


@pytest.mark.parametrize(("kept", "missing"), [(0, r"annotations \(answers\)"), (1, "questions")])
def test_one_file_alone_is_refused_by_what_it_lacks(kept: int, missing: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"without its file of {missing}; give both files"):
        entries(_files(tmp_path)[kept])


def test_a_picture_that_is_not_there_is_counted(tmp_path: Path) -> None:
    files = _files(tmp_path)
    assert {reason(entry) for entry in entries(*files)} == {"picture not found"}
