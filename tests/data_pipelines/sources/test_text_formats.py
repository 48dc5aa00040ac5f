"""Plain text by document, paragraph or line, and parallel text in all its files, become documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.sources.source import Options
from tests.data_pipelines.sources.piles import entries, found, put, put_lines, reason, said
from text.document import Document

BOMB = """<?xml version="1.0"?><!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<tmx><body><tu><tuv xml:lang="en"><seg>&b;</seg></tuv></tu></body></tmx>"""
LEAK = """<?xml version="1.0"?><!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<tmx><body><tu><tuv xml:lang="en"><seg>&a;</seg></tuv></tu></body></tmx>"""


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("document", ["one\ntwo\n\nthree\n \nfour", "five"]),
        ("paragraph", ["one\ntwo", "three", "four", "five"]),
        ("line", ["one", "two", "three", "four", "five"]),
    ],
)
def test_a_text_file_is_cut_as_the_user_says(tmp_path: Path, sample_by: str, expected: list[str]) -> None:
    put(tmp_path / "a.txt", "one\ntwo\n\nthree\n \nfour\n")
    put(tmp_path / "b.txt.gz", "five")
    assert found(tmp_path) == "text"
    assert [said(entry)[0] for entry in entries(tmp_path, options=Options(sample_by=sample_by))] == expected  # type: ignore[arg-type]


def test_text_that_is_no_utf8_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", b"good\n\n\xff\xfe\n\ngood too")
    found = entries(tmp_path, options=Options(sample_by="paragraph"))
    assert (said(found[0]), reason(found[1]), said(found[2])) == (["good"], "text is not UTF-8", ["good too"])


def test_text_of_records_keeps_what_else_is_known(tmp_path: Path) -> None:
    file = put_lines(tmp_path / "a.jsonl.gz", [{"text": "One", "id": "x", "deep": {"left": "out"}}, {"body": "Two"}])
    assert found(file) == "text-records"
    first, second = entries(file)
    assert isinstance(first.document, Document)
    assert (said(first), first.document.meta) == (["One"], {"id": "x"})
    assert reason(second) == "no words"
    named = entries(
        put_lines(tmp_path / "b.jsonl", [{"body": "Two"}]), options=Options(text="body"), format="text-records"
    )
    assert said(named[0]) == ["Two"]


def test_records_with_a_field_a_language_are_parallel(tmp_path: Path) -> None:
    rows = [{"row": "1", "en": "One", "de": "Eins", "fr": "Un"}, {"row": "2", "en": "Two", "de": "Zwei"}, {"en": "x"}]
    file = put_lines(tmp_path / "a.jsonl", rows)
    assert found(file) == "parallel-records"
    first, second, third = entries(file)
    assert isinstance(first.document, Document)
    assert (said(first), first.document.meta) == (["One", "Eins", "Un"], {"row": "1", "languages": ["en", "de", "fr"]})
    assert (said(second), reason(third)) == (["Two", "Zwei"], "language missing")
    picked = entries(file, options=Options(languages=("fr", "en")))
    assert (said(picked[0]), reason(picked[1])) == (["Un", "One"], "language missing")


def test_moses_files_stay_side_by_side_over_blank_lines(tmp_path: Path) -> None:
    english = put(tmp_path / "corpus.en", "One\n\nThree\n")
    german = put(tmp_path / "corpus.de.gz", "Eins\nZwei\nDrei\n")
    assert found(english, german) == "parallel-lines"
    first, second, third = entries(english, german)
    assert (said(first), reason(second), said(third)) == (["One", "Eins"], "language missing", ["Three", "Drei"])
    put(english, "One\n")
    with pytest.raises(ValueError, match=r"equal length.*'corpus.en': 1.*'corpus.de.gz': 3"):
        entries(english, german)


def test_a_table_says_its_languages_or_is_told(tmp_path: Path) -> None:
    headed = put(tmp_path / "a.tsv", "en\tde\nOne\tEins\nTwo\n")
    first, short = entries(headed)
    assert (said(first), reason(short)) == (["One", "Eins"], "malformed record")
    bare = put(tmp_path / "b.tsv", "One\tEins\n")
    with pytest.raises(ValueError, match="--languages"):
        entries(bare)
    assert said(entries(bare, options=Options(languages=("en", "de")))[0]) == ["One", "Eins"]


def test_translation_memories_lose_their_codes_and_keep_their_words(tmp_path: Path) -> None:
    english = '<tuv xml:lang="EN"><seg>A <bpt i="1">&lt;b></bpt>red<ept i="1"/> <hi>cup</hi>.</seg></tuv>'
    unit = f'<tu>{english}<tuv xml:lang="de"><seg>Eine Tasse.</seg></tuv></tu>'
    half = '<tu><tuv xml:lang="en"><seg>Alone.</seg></tuv></tu>'
    file = put(
        tmp_path / "a.tmx",
        f'<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx><body>{unit}{half}</body></tmx>',
    )
    assert found(file) == "tmx"
    first, second = entries(file, options=Options(languages=("en", "de")))
    assert (said(first), reason(second)) == (["A red cup.", "Eine Tasse."], "language missing")


@pytest.mark.parametrize(("xml", "words"), [(BOMB, "entities"), (LEAK, "entities"), ("<tmx><body>", "broken XML")])
def test_hostile_or_broken_xml_is_refused(tmp_path: Path, xml: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        entries(put(tmp_path / "a.tmx", xml))
