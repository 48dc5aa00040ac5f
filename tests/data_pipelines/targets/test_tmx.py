"""TMX: words come back to the letter, whatever XML would make of them."""

from __future__ import annotations

from pathlib import Path

from tests.data_pipelines.targets.readback import converted, plain, read_back
from text.document import Control, Document, Text
from text.specials import END


def test_words_come_back_to_the_letter(tmp_path: Path) -> None:
    hostile = "<seg>&amp; \"one\" ]]> <!--\n\ttwo\rthree\x85\u2028 <!ENTITY a 'b'>"
    documents = {
        "a/b": Document((Text(hostile), Text("Eins")), {"languages": ["en", "de"]}),
        "c": Document((Text("Un"), Text("One"), Text("一")), {"languages": ["fr", "en", "zh-hant"]}),
    }
    report = converted(tmp_path, "tmx", documents)
    read = read_back(tmp_path)
    assert [plain(document) for document in read] == [list(one.segments) for one in documents.values()]
    assert [document.meta for document in read] == [one.meta for one in documents.values()]
    assert report.noted == {}


def test_an_empty_memory_is_still_one(tmp_path: Path) -> None:
    report = converted(tmp_path, "tmx", {"k": Document((Text("One"),))})
    assert report.dropped == {"cannot hold: no languages in its meta": 1}
    assert (tmp_path / "out" / "set-0.tmx").read_text().endswith("<body>\n</body>\n</tmx>\n")


def test_a_character_without_a_form_in_xml_is_counted(tmp_path: Path) -> None:
    documents = {
        "k": Document((Text("One\x0btwo"), Text("Eins")), {"languages": ["en", "de"]}),
        "l": Document((Text("One"), Text("Eins")), {"languages": ["en", 'de"><tuv']}),
    }
    report = converted(tmp_path, "tmx", documents)
    assert report.dropped == {"cannot hold: a character that XML has no form for": 1}
    assert read_back(tmp_path)[0].meta["languages"] == ["en", 'de"><tuv']


def test_what_tmx_loses_is_noted(tmp_path: Path) -> None:
    segments = (Text("One"), Text("Um"), Control(END))
    report = converted(tmp_path, "tmx", {"k": Document(segments, {"languages": ["en", "pt_BR"], "id": 1})})
    assert read_back(tmp_path)[0].meta["languages"] == ["en", "pt-br"]
    assert report.noted == {
        "lost: special tokens": 1,
        "lost: meta": 1,
        "changed: a language is spelt in small letters": 1,
    }
