"""Instructions become documents whose outcome alone is learnt, whichever data set's names they come under."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_pipelines.sources.piles import entries, found, photo, put, put_lines, reason, said

ADD = {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (ADD, ["[Add the numbers.\n1, 2]", "3"]),
        ({**ADD, "input": ""}, ["[Add the numbers.]", "3"]),
        ({**ADD, "text": "Below is an instruction ..."}, ["[Add the numbers.\n1, 2]", "3"]),
        ({"instruction": "Add.", "context": "1, 2", "response": " 3 "}, ["[Add.\n1, 2]", "3"]),
        ({"inputs": "Is it so?", "targets": "No."}, ["[Is it so?]", "No."]),
        ({"prompt": "Is it so?", "completion": "No."}, ["[Is it so?]", "No."]),
    ],
)
def test_only_the_outcome_is_learnt(record: dict[str, object], wanted: list[str], tmp_path: Path) -> None:
    file = put_lines(tmp_path / "a.jsonl", [record])
    assert found(file) == "instructions"
    assert [said(entry) for entry in entries(file)] == [wanted]


def test_alpacas_list_is_read_as_it_is(tmp_path: Path) -> None:
    file = put(tmp_path / "alpaca_data.json", [ADD, {**ADD, "output": ""}, {"output": "3"}])
    first, empty, unasked = entries(file)
    assert said(first) == ["[Add the numbers.\n1, 2]", "3"]
    assert (reason(empty), reason(unasked)) == ("no words", "no words")


def test_unnatural_instructions_have_several_cases_and_perhaps_constraints(tmp_path: Path) -> None:
    cases = [
        {"instruction_with_input": "x", "input": "1, 2", "constraints": "None.", "output": "3"},
        {"instruction_with_input": "x", "input": "4, 5", "constraints": "In words.", "output": "nine"},
    ]
    file = put_lines(tmp_path / "core_data.jsonl", [{"instruction": "Add.", "instances": cases}])
    assert found(file) == "instructions"
    first, second = entries(file)
    assert (first.key, second.key) == ("core_data-00000000-0", "core_data-00000000-1")
    assert (said(first), said(second)) == (["[Add.\n1, 2]", "3"], ["[Add.\n4, 5\nIn words.]", "nine"])


def test_an_instruction_without_cases_is_dropped_by_name(tmp_path: Path) -> None:
    file = put_lines(tmp_path / "a.jsonl", [{"instruction": "Add.", "instances": []}])
    assert [reason(entry) for entry in entries(file)] == ["no words"]


def test_an_instruction_about_a_picture_shows_it_first(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.jpg", photo(1))
    file = put_lines(tmp_path / "a.jsonl", [{**ADD, "image": "a.jpg"}, {**ADD, "image": "b.jpg"}])
    first, blind = entries(file)
    assert said(first) == [photo(1), "[Add the numbers.\n1, 2]", "3"]
    assert reason(blind) == "picture not found"
