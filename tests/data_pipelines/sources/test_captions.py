"""Captions and questions in fields, in tables and in COCO's files become documents, one a picture or one a caption."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.sources.source import Options
from tests.data_pipelines.sources.piles import entries, found, photo, put, put_tar, reason, said
from text.document import Document

CAPTIONS = ["a dog runs .", "Two dogs ( black ) run ."]


def _captioned(folder: Path) -> Path:
    return put_tar(
        folder / "set-0.tar", {"a.jpg": photo(1), "a.json": {"id": "x", "captions": CAPTIONS, "license": "MIT"}}
    )


def test_a_picture_comes_with_its_first_caption_and_keeps_the_others(tmp_path: Path) -> None:
    assert found(_captioned(tmp_path)) == "captioned"
    (entry,) = entries(_captioned(tmp_path))
    assert said(entry) == [photo(1), "A dog runs."]
    assert isinstance(entry.document, Document)
    assert entry.document.meta == {"id": "x", "license": "MIT", "captions": ["A dog runs.", "Two dogs (black) run."]}


def test_each_caption_may_be_a_document(tmp_path: Path) -> None:
    found = entries(_captioned(tmp_path), options=Options(each="caption"))
    assert [entry.key for entry in found] == ["a-0", "a-1"]
    assert [said(entry)[1] for entry in found] == ["A dog runs.", "Two dogs (black) run."]


def test_captions_stay_as_released_where_asked(tmp_path: Path) -> None:
    assert said(entries(_captioned(tmp_path), options=Options(verbatim=True))[0])[1] == "a dog runs ."


def test_questions_are_read_and_answers_are_learnt(tmp_path: Path) -> None:
    qas = [{"question": "what is red ?", "answers": ["cup", "pen"]}, {"question": "How many?", "answers": ["2"]}]
    tar = put_tar(tmp_path / "q.tar", {"a.jpg": photo(1), "a.json": {"qas": qas}})
    turns = ["[Question: What is red? Answer:]", "cup, pen", "[Question: How many? Answer:]", "2"]
    assert [said(entry) for entry in entries(tar)] == [[photo(1), *turns]]
    one_each = entries(tar, options=Options(questions="qas", each="caption"))
    assert [said(entry) for entry in one_each] == [[photo(1), *turns[:2]], [photo(1), *turns[2:]]]


def test_a_field_of_another_name_is_said(tmp_path: Path) -> None:
    tar = put_tar(tmp_path / "q.tar", {"a.jpg": photo(1), "a.json": {"alt_texts": ["A cup."]}})
    with pytest.raises(ValueError, match=r"no format known here .*alt_texts.*--format"):
        entries(tar)
    assert said(entries(tar, options=Options(captions="alt_texts"))[0]) == [photo(1), "A cup."]


def test_what_is_no_picture_is_refused_for_what_it_is(tmp_path: Path) -> None:
    record = {"captions": ["A dog."]}
    members = {"a.jpg": b"no picture", "a.json": record, "b.json": record, "c.jpg": photo(1), "c.json": b"{"}
    tar = put_tar(tmp_path / "q.tar", {"0.jpg": photo(0), "0.json": record, **members})
    assert [reason(entry) for entry in entries(tar)[1:]] == [
        "picture of an unknown format",
        "no picture",
        "broken JSON",
    ]


def test_a_picture_of_too_many_pixels_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_pipelines.sources import pictures
    from vision.image import ImageLimits

    monkeypatch.setattr(pictures, "LIMITS", ImageLimits(max_pixels=95))
    assert reason(entries(_captioned(tmp_path))[0]) == "picture too large"


def test_coco_captions_are_joined_to_their_pictures(tmp_path: Path) -> None:
    images = [
        {"id": 7, "file_name": "x/b.jpg", "license": 3},
        {"id": 5, "file_name": "a.jpg"},
        {"id": 6, "file_name": "n.jpg"},
    ]
    annotations = [
        {"id": 1, "image_id": 5, "caption": "A"},
        {"id": 2, "image_id": 7, "caption": "B"},
        {"id": 3, "image_id": 6, "caption": "C"},
    ]
    file = put(tmp_path / "captions.json", {"images": images, "annotations": annotations})
    put(tmp_path / "images" / "a.jpg", photo(1))
    put(tmp_path / "images" / "x" / "b.jpg", photo(2))
    assert found(file) == "coco"
    first, second, third = entries(file)
    assert (said(first), said(second)) == ([photo(2), "B."], [photo(1), "A."])
    assert reason(third) == "picture not found"


def test_karpathys_split_counts_restval_to_train(tmp_path: Path) -> None:
    image = {"filename": "a.jpg", "filepath": "val2014", "split": "restval", "sentences": [{"raw": "A dog."}]}
    file = put(tmp_path / "dataset_coco.json", {"images": [image], "dataset": "coco"})
    put(tmp_path / "val2014" / "a.jpg", photo(1))
    (entry,) = entries(file)
    assert said(entry) == [photo(1), "A dog."]
    assert isinstance(entry.document, Document)
    assert entry.document.meta["split"] == "train"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Flickr8k.token.txt", "a.jpg#0\tA dog .\nb.jpg#0\tA cat , wet .\na.jpg#1\tThe dog ."),
        ("captions.csv", 'image,caption\na.jpg,A dog .\nb.jpg,"A cat , wet ."\na.jpg,The dog .\n'),
        (
            "results.csv",
            "image_name| comment_number| comment\na.jpg| 0| A dog .\nb.jpg| 0   A|  A cat , wet .\na.jpg| 1| The dog .",
        ),
    ],
)
def test_lines_of_a_caption_list_are_gathered_by_picture(tmp_path: Path, name: str, text: str) -> None:
    for place, shade in (("a.jpg", 1), ("b.jpg", 2)):
        put(tmp_path / "images" / place, photo(shade))
    file = put(tmp_path / name, text)
    assert found(file) == "flickr"
    dog, cat = entries(file)
    assert (said(dog), said(cat)) == ([photo(1), "A dog."], [photo(2), "A cat, wet."])
    assert isinstance(dog.document, Document)
    assert dog.document.meta["captions"] == ["A dog.", "The dog."]


def test_a_caption_list_never_reaches_out_of_its_folder(tmp_path: Path) -> None:
    put(tmp_path / "secret.jpg", photo(9))
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    names = (
        "../secret.jpg",
        "../../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "link.jpg",
        "http://x.org/a.jpg",
        "a\0b.jpg",
    )
    file = put(tmp_path / "set" / "captions.csv", "image,caption\n" + "".join(f"{name},A dog\n" for name in names))
    reasons = {reason(entry) for entry in entries(file)}
    assert reasons <= {"picture outside its folder", "picture not found", "picture elsewhere"}
