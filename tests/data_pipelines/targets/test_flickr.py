"""Flickr's caption list: every caption on its line, the document's own words first."""

from __future__ import annotations

from pathlib import Path

from tests.data_pipelines.sources.piles import photo
from tests.data_pipelines.targets.readback import converted, plain, read_back
from text.document import Document, Image, Text


def test_words_and_other_captions_come_back(tmp_path: Path) -> None:
    captions = ["A dog.", "One dog#2.", "A dog runs."]
    documents = {
        "a/one": Document((Image(photo(1)), Text("A dog runs.")), {"captions": captions}),
        "two": Document((Image(photo(2)), Text("A cat."))),
    }
    report = converted(tmp_path, "flickr", documents)
    assert [plain(document) for document in read_back(tmp_path)] == [list(one.segments) for one in documents.values()]
    assert read_back(tmp_path)[0].meta["captions"] == ["A dog runs.", "A dog.", "One dog#2."]
    assert report.noted == {}


def test_the_list_is_that_of_the_release(tmp_path: Path) -> None:
    converted(tmp_path, "flickr", {"k": Document((Image(photo(1)), Text("A dog.")), {"captions": ["One dog."]})})
    place = "images/set-0/k.0.jpg"
    assert (tmp_path / "out" / "set-0.txt").read_text() == f"{place}#0\tA dog.\n{place}#1\tOne dog.\n"
    assert (tmp_path / "out" / place).read_bytes() == photo(1)


def test_a_caption_stays_on_its_line(tmp_path: Path) -> None:
    words = "One\r\ntwo\tthree\u2028four\x85five\x1csix."
    report = converted(tmp_path, "flickr", {"k": Document((Image(photo(1)), Text(words)), {"source": "web"})})
    (read,) = read_back(tmp_path)
    assert plain(read)[1] == Text("One two three four five six.")
    assert report.noted == {"lost: meta": 1, "changed: line breaks and tabs are blanks now": 1}


def test_lists_of_several_shards_are_read_as_one_source(tmp_path: Path) -> None:
    one, two = ({"k": Document((Image(photo(shade)), Text(f"A dog {shade}.")))} for shade in (1, 2))
    converted(tmp_path, "flickr", one, two)
    assert [plain(document) for document in read_back(tmp_path)] == [list(one["k"].segments), list(two["k"].segments)]


def test_what_a_list_cannot_hold_is_counted(tmp_path: Path) -> None:
    documents = {"words": Document((Text("No picture."),)), "picture": Document((Image(photo(1)),))}
    report = converted(tmp_path, "flickr", documents)
    assert report.dropped == {"cannot hold: not one picture": 1, "cannot hold: no words": 1}
