"""Places of things, by category, by expression or by marked phrases, become grounded captions."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.sources.source import Entry, Options
from tests.data_pipelines.sources.piles import entries, found, photo, put, reason, said
from text.document import Box, Document, Text

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
PICTURE = {"id": 7, "file_name": "a.jpg", "width": 120, "height": 80}  # ten times the size of `photo`
TABLE = """<annotation><filename>9.jpg</filename><size><width>120</width><height>80</height><depth>3</depth></size>
<object><name>5</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>
<object><name>5</name><name>6</name><bndbox><xmin>60</xmin><ymin>40</ymin><xmax>130</xmax><ymax>80</ymax></bndbox></object>
<object><name>8</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""
SENTENCES = (
    "[/EN#5/people Two men] sit on [/EN#8/scene a beach] with [/EN#6/other/clothing a dog] ,"
    " and [/EN#0/notvisual they] wait .\nA man .\n"
)


def _phrases(entry: Entry) -> list[tuple[str, tuple[Box, ...]]]:
    assert isinstance(entry.document, Document), entry.document
    texts = [segment for segment in entry.document.segments if isinstance(segment, Text)]
    return [(text.text[phrase.start : phrase.end], phrase.boxes) for text in texts for phrase in text.phrases]


def _instances(folder: Path, annotations: list[dict[str, object]], **picture: object) -> Path:
    put(folder / "a.jpg", photo(1))
    content = {"images": [{**PICTURE, **picture}], "annotations": annotations, "categories": CATEGORIES}
    return put(folder / "instances.json", content)


def _place(category: int, *box: float, **more: object) -> dict[str, object]:
    return {"image_id": 7, "category_id": category, "bbox": list(box), "iscrowd": 0, **more}


def test_each_category_of_coco_comes_once_with_all_its_places(tmp_path: Path) -> None:
    file = _instances(tmp_path, [_place(18, 0, 0, 60, 40), _place(1, 60, 40, 60, 40), _place(18, 30, 20, 30, 20)])
    assert found(file) == "boxes"
    (entry,) = entries(file)
    assert said(entry) == [photo(1), "<grounding>", "dog", "person"]
    dogs = ((0.0, 0.0, 0.5, 0.5), (0.25, 0.25, 0.5, 0.5))
    assert _phrases(entry) == [("dog", dogs), ("person", ((0.5, 0.5, 1.0, 1.0),))]


def test_each_category_may_be_a_document_of_its_own(tmp_path: Path) -> None:
    file = _instances(tmp_path, [_place(18, 0, 0, 60, 40), _place(1, 60, 40, 60, 40)])
    both = entries(file, options=Options(each="caption"))
    assert [said(entry) for entry in both] == [[photo(1), "<grounding>", "dog"], [photo(1), "<grounding>", "person"]]
    assert [entry.key for entry in both] == ["instances-00000000-0", "instances-00000000-1"]


def test_crowds_and_empty_boxes_are_left_out_and_counted(tmp_path: Path) -> None:
    empty, outside = _place(18, 5, 5, 0, 9), _place(18, 100, 70, 50, 50)
    (entry,) = entries(_instances(tmp_path, [_place(1, 0, 0, 9, 9, iscrowd=1), empty, outside]))
    assert entry.notes == ("left out: crowd", "left out: box without area")
    assert _phrases(entry) == [("dog", ((100 / 120, 70 / 80, 1.0, 1.0),))]


def test_expressions_are_said_in_the_place_of_categories(tmp_path: Path) -> None:
    (entry,) = entries(_instances(tmp_path, [_place(18, 0, 0, 60, 40, expression="the dog on the left")]))
    assert _phrases(entry) == [("the dog on the left", ((0.0, 0.0, 0.5, 0.5),))]


def test_marked_spans_of_a_caption_are_its_phrases(tmp_path: Path) -> None:
    places = [_place(1, 0, 0, 60, 40, tokens_positive=[[0, 5]]), _place(1, 60, 0, 60, 40, tokens_positive=[[12, 17]])]
    (entry,) = entries(_instances(tmp_path, places, caption="A dog meets a cat."))
    assert said(entry)[2] == "A dog meets a cat."
    assert [words for words, _ in _phrases(entry)] == ["A dog", "a cat"]


def test_a_picture_that_states_no_size_is_measured(tmp_path: Path) -> None:
    (entry,) = entries(_instances(tmp_path, [_place(18, 0, 0, 6, 4)], width=None))
    assert _phrases(entry) == [("dog", ((0.0, 0.0, 0.5, 0.5),))]


@pytest.mark.parametrize(
    ("annotation", "wanted"),
    [
        (_place(3, 0, 0, 9, 9), "no words"),
        (_place(18, 0, 0, 9), "malformed phrases"),
        (_place(18, 0, 0, 9, 10**400), "malformed phrases"),
        ({**_place(18), "bbox": "all"}, "malformed phrases"),
    ],
)
def test_what_is_no_place_is_refused(annotation: dict[str, object], wanted: str, tmp_path: Path) -> None:
    assert reason(entries(_instances(tmp_path, [annotation]))[0]) == wanted


@pytest.mark.parametrize("spans", [[[0]], [[0, 99]], [["0", "5"]], [[5, 2]]])
def test_spans_outside_their_caption_are_refused(spans: list[object], tmp_path: Path) -> None:
    file = _instances(tmp_path, [_place(1, 0, 0, 9, 9, tokens_positive=spans)], caption="A dog.")
    assert reason(entries(file)[0]) == "malformed phrases"


def _entities(folder: Path, sentences: str = SENTENCES, places: str = TABLE) -> Path:
    put(folder / "flickr30k-images" / "9.jpg", photo(1))
    put(folder / "set" / "Sentences" / "9.txt", sentences)
    put(folder / "set" / "Annotations" / "9.xml", places)
    return folder / "set"


def test_sentences_of_flickr30k_entities_get_the_places_of_their_phrases(tmp_path: Path) -> None:
    source, options = _entities(tmp_path), Options(images=tmp_path / "flickr30k-images")
    assert found(source) == "entities"
    (entry,) = entries(source, options=options)
    assert said(entry) == [photo(1), "<grounding>", "Two men sit on a beach with a dog, and they wait."]
    second = (0.5, 0.5, 1.0, 1.0)
    assert _phrases(entry) == [("Two men", ((0.0, 0.0, 0.5, 0.5), second)), ("a dog", (second,))]
    every = entries(source, options=Options(images=tmp_path / "flickr30k-images", each="caption"))
    assert [said(one)[2] for one in every] == ["Two men sit on a beach with a dog, and they wait.", "A man."]


def test_sentences_without_their_places_are_not_read_as_plain_text(tmp_path: Path) -> None:
    source = _entities(tmp_path)
    with pytest.raises(ValueError, match=r"9\.txt has no 9\.xml"):
        entries(source / "Sentences")


@pytest.mark.parametrize(
    "places",
    [
        "<annotation><size>",
        TABLE.replace("120", "wide"),
        TABLE.replace("120", "0"),
        '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
    ],
)
def test_places_in_broken_or_hostile_xml_are_refused(places: str, tmp_path: Path) -> None:
    source = _entities(tmp_path, places=places)
    assert reason(entries(source, options=Options(images=tmp_path / "flickr30k-images"))[0]) == "malformed phrases"
