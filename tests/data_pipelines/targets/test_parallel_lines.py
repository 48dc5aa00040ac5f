"""A table of parallel text: a line a document, whatever its words hold; never two meanings of a column."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_pipelines.sources.piles import photo
from tests.data_pipelines.targets.readback import converted, plain, read_back
from text.document import Document, Image, Segment, Text


def _parallel(*segments: Segment, **meta: object) -> Document:
    return Document(segments, {"languages": ["en", "de"], **meta})


def test_documents_come_back_in_the_order_of_their_languages(tmp_path: Path) -> None:
    languages = ["pt_BR", "zh-Hant", "en"]
    documents = {
        key: Document((Text(f"um {key}"), Text(f"一 {key}"), Text(f'"one {key}')), {"languages": languages})
        for key in ("a", "b")
    }
    report = converted(tmp_path, "parallel-lines", documents)
    read = read_back(tmp_path)
    assert [plain(document) for document in read] == [list(one.segments) for one in documents.values()]
    assert [document.meta for document in read] == [{"languages": languages}] * 2
    assert report.noted == {}


def test_a_document_stays_on_its_line(tmp_path: Path) -> None:
    documents = {"a": _parallel(Text("One\ttwo\n\nthree"), Text("Eins")), "b": _parallel(Text("Two"), Text("Zwei"))}
    report = converted(tmp_path, "parallel-lines", documents)
    assert (tmp_path / "out" / "set-0.tsv").read_text() == "en\tde\nOne two three\tEins\nTwo\tZwei\n"
    assert report.noted == {"changed: line breaks and tabs are blanks now": 1}


REFUSED = {
    "no languages in its meta": Document((Text("One"), Text("Eins"))),
    "pictures": _parallel(Image(photo(1)), Text("One"), Text("Eins")),
    "not a text for each language": _parallel(Text("One"), Text("Eins"), Text("Un")),
    "not several languages": Document((Text("One"), Text("One")), {"languages": ["en", "EN"]}),
    "a language without a code of two letters": Document((Text("One"), Text("I")), {"languages": ["en", "lat"]}),
    "other languages than the first document's": Document((Text("Eins"), Text("One")), {"languages": ["de", "en"]}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_a_table_cannot_hold_is_counted(tmp_path: Path, reason: str) -> None:
    documents = {"first": _parallel(Text("One"), Text("Eins")), "second": REFUSED[reason]}
    report = converted(tmp_path, "parallel-lines", documents)
    assert report.dropped == {f"cannot hold: {reason}": 1}
    assert len(read_back(tmp_path)) == 1


def test_what_a_table_loses_is_noted(tmp_path: Path) -> None:
    report = converted(tmp_path, "parallel-lines", {"k": _parallel(Text("One", loss=False), Text("Eins"), id=3)})
    assert report.noted == {"lost: meta": 1, "lost: which words are learnt": 1}


def test_tables_of_several_shards_are_read_as_one_source(tmp_path: Path) -> None:
    one, two = {"a": _parallel(Text("One"), Text("Eins"))}, {"a": _parallel(Text("Two"), Text("Zwei"))}
    converted(tmp_path, "parallel-lines", {"none": Document((Text("One"),))}, one, two)
    assert [plain(document) for document in read_back(tmp_path)] == [list(one["a"].segments), list(two["a"].segments)]


def test_a_column_never_has_two_meanings(tmp_path: Path) -> None:
    other = Document((Text("Un"), Text("One")), {"languages": ["fr", "en"]})
    converted(tmp_path, "parallel-lines", {"a": _parallel(Text("One"), Text("Eins"))}, {"a": other})
    with pytest.raises(ValueError, match="one kind at a time"):
        read_back(tmp_path)
