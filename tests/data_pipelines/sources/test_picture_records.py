"""A record that names a picture or holds it becomes a caption pair or a question with its answer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.sources.source import Options
from tests.data_pipelines.sources.piles import entries, found, photo, put, put_lines, reason, said
from text.document import Document

COMMONEST = [{"answer": answer, "answer_id": number} for number, answer in enumerate(["red", "dark red", "red"])]


def test_a_folder_of_hugging_faces_imagefolder_gives_captions_and_not_words_alone(tmp_path: Path) -> None:
    put(tmp_path / "train" / "a.jpg", photo(1))
    put_lines(tmp_path / "train" / "metadata.jsonl", [{"file_name": "a.jpg", "text": "A dog runs ."}])
    assert found(tmp_path / "train") == "picture-records"
    assert [said(entry) for entry in entries(tmp_path / "train")] == [[photo(1), "A dog runs."]]


def test_several_captions_are_as_everywhere(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.jpg", photo(1))
    file = put_lines(tmp_path / "a.jsonl", [{"image": "a.jpg", "captions": ["One.", "Two."]}])
    (entry,) = entries(file)
    assert said(entry) == [photo(1), "One."]
    assert isinstance(entry.document, Document)
    assert entry.document.meta["captions"] == ["One.", "Two."]
    assert [said(one)[1] for one in entries(file, options=Options(each="caption"))] == ["One.", "Two."]


@pytest.mark.parametrize(
    ("answers", "learnt"),
    [
        ({"answer": "red"}, "red"),
        ({"answers": ["cup", "pen"]}, "cup, pen"),
        ({"answers": ["red", "dark red", "red"]}, "red"),
        ({"answers": COMMONEST}, "red"),
        ({"answers": COMMONEST, "multiple_choice_answer": "dark red"}, "dark red"),
    ],
)
def test_questions_are_read_and_the_agreed_answer_is_learnt(
    answers: dict[str, object], learnt: str, tmp_path: Path
) -> None:
    put(tmp_path / "a.jpg", photo(1))
    file = put_lines(tmp_path / "vqa.jsonl", [{"image": "a.jpg", "question": "What colour?", **answers}])
    assert found(file) == "picture-records"
    assert [said(entry) for entry in entries(file)] == [[photo(1), "[Question: What colour? Answer:]", learnt]]


def test_a_parquet_file_holds_its_pictures(tmp_path: Path) -> None:
    pictures = [{"bytes": photo(1), "path": "a.jpg"}, {"bytes": None, "path": "../b.jpg"}]
    columns = {"image": pictures, "question": ["What?", "What?"], "multiple_choice_answer": ["A dog", "A cat"]}
    pq.write_table(pa.table(columns), tmp_path / "vqa.parquet")
    held, outside = entries(tmp_path / "vqa.parquet")
    assert said(held) == [photo(1), "[Question: What? Answer:]", "A dog"]
    assert reason(outside) == "picture outside its folder"


def test_records_without_picture_or_words_are_refused_for_what_they_lack(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", photo(1))
    records = [
        {"image": "a.jpg", "caption": "A."},
        {"caption": "A."},
        {"image": "a.jpg"},
        {"image": "a.jpg", "question": "?"},
    ]
    _, *others = entries(put_lines(tmp_path / "a.jsonl", records))
    assert [reason(entry) for entry in others] == ["no picture", "no words", "no words"]
