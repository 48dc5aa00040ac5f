"""Whatever strangers put into a record, a format answers with a document or a counted reason, never with a crash."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from data_pipelines.errors import DocumentError
from data_pipelines.schema import parts_of_document
from data_pipelines.sources import lines
from data_pipelines.sources.formats import load_source
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.source import Options
from tests.data_pipelines.sources.piles import entries, photo, put, put_lines, said
from tests.data_pipelines.sources.piles import reason as reason_of
from text.document import Document

TURNS = [{"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "A dog."}]
PART = {"type": "image_url", "image_url": {"url": "a.jpg"}}
MESSAGES = [{"role": "user", "content": [PART, {"type": "text", "text": "What?"}]}]
PHRASES = [{"start": 0, "end": 1, "boxes": [[0, 0, 1, 1]]}]
SEGMENTS = [{"image": "a.jpg"}, {"text": "A", "loss": True, "phrases": PHRASES}, {"control": "</s>"}]
MATCHED = {"image_name": "a.jpg", "matched_text_index": 0, "image_base64": b64encode(photo(1)).decode(), "raw_url": "x"}
SOUND: list[tuple[str, dict[str, object]]] = [
    ("mmc4", {"text_list": ["One."], "image_info": [MATCHED]}),
    ("obelics", {"images": ["a.jpg", None], "texts": [None, "A"], "metadata": "[]", "general_metadata": "{}"}),
    ("llava", {"image": ["a.jpg"], "conversations": TURNS}),
    ("llava", {"messages": MESSAGES}),
    ("documents", {"segments": SEGMENTS, "meta": {"source": "x"}}),
    ("grounded", {"image": "a.jpg", "caption": "A dog", "noun_chunks": [], "ref_exps": [[0, 1, 0, 0, 1, 1, 1]]}),
    ("picture-records", {"image": "a.jpg", "question": "What?", "answers": [{"answer": "A dog"}, {"answer": "A cat"}]}),
    ("picture-records", {"image": {"path": "a.jpg"}, "captions": ["A dog", "A cat"]}),
    ("instructions", {"instruction": "Add.", "input": "1, 2", "output": "3", "image": "a.jpg"}),
    ("instructions", {"instruction": "Add.", "instances": [{"input": "1, 2", "constraints": "", "output": "3"}]}),
    ("parallel-records", {"en": "One", "de": "Eins", "id": "x"}),
    ("text-records", {"text": "One", "id": "x"}),
]
PICTURES = [{"id": 7, "file_name": "a.jpg", "width": 12, "height": 8}]
PLACES = [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 6, 4], "iscrowd": 0}]
SPANS = [{"image_id": 7, "bbox": [0, 0, 6, 4], "tokens_positive": [[0, 5]]}]
ASKED = [{"question_id": 1, "image_id": "a.jpg", "question": "What?"}]
ANSWERED = [{"question_id": 1, "answers": [{"answer": "A dog"}]}]
WHOLE: list[tuple[str, dict[str, object]]] = [
    ("coco", {"images": PICTURES, "annotations": [{"image_id": 7, "caption": "A dog"}]}),
    ("boxes", {"images": PICTURES, "annotations": PLACES, "categories": [{"id": 1, "name": "dog"}]}),
    ("boxes", {"images": [{**PICTURES[0], "caption": "A dog"}], "annotations": SPANS}),
    ("vqa", {"questions": ASKED, "annotations": ANSWERED, "data_subtype": "train2014"}),
]
WRONG: list[object] = [
    None, True, -1, 3, 0.5, 10**400, float("inf"), float("nan"), "", "x", "<image><image>", "../x", "//x[", "[1",
    "\ud800", "a\0b", [], [[]], [None], {}, {"a": 1}, {"url": 3}, [{}], "<s>",
]  # fmt: skip


def _spoilt(value: object) -> Iterator[object]:
    """The value with one place of it, at any depth, exchanged for anything that is wrong there."""
    yield from WRONG
    if isinstance(value, dict):
        for name in value:
            yield {other: value[other] for other in value if other != name}
            yield from ({**value, name: spoilt} for spoilt in _spoilt(value[name]))
    if isinstance(value, list):
        for place in range(len(value)):
            yield from ([*value[:place], spoilt, *value[place + 1 :]] for spoilt in _spoilt(value[place]))


@pytest.mark.parametrize(("name", "sound"), SOUND)
def test_any_wrong_value_gives_a_document_that_can_be_written_or_a_reason(
    name: str, sound: dict[str, object], tmp_path: Path
) -> None:
    put(tmp_path / "a.jpg", photo(1))
    records = [sound, *(record for record in _spoilt(sound) if isinstance(record, dict))]
    file = put_lines(tmp_path / "records.jsonl", records)
    opened = load_source(name).open(Glimpse(paths=(file,), files=(file,)), Options())
    read = list(opened.read(0, len(opened)))
    assert isinstance(read[0].document, Document)
    assert [entry.key for entry in read] == [f"records-{number:08d}" for number in range(len(records))]
    for entry in read:
        if isinstance(entry.document, Document):
            with suppress(DocumentError):
                parts_of_document(entry.key, entry.document)


@pytest.mark.parametrize(("name", "sound"), WHOLE)
def test_any_wrong_value_in_a_file_that_is_one_object_gives_documents_reasons_or_a_word_on_the_file(
    name: str, sound: dict[str, object], tmp_path: Path
) -> None:
    put(tmp_path / "a.jpg", photo(1))
    file, documents, refusals = tmp_path / "whole.json", 0, 0
    for content in [sound, *_spoilt(sound)]:
        put(file, json.dumps(content))
        try:
            opened = load_source(name).open(Glimpse(paths=(file,), files=(file,)), Options())
            read = list(opened.read(0, len(opened)))
        except ValueError:
            refusals += 1
            continue
        for entry in read:
            documents += isinstance(entry.document, Document)
            if isinstance(entry.document, Document):
                with suppress(DocumentError):
                    parts_of_document(entry.key, entry.document)
    assert documents > 0
    assert refusals > 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "\xff"}', "text is not UTF-8"),
        (b'{"text": "cut', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'["text"]', "broken JSON"),
        (b'{"text": 3}', "no words"),
        (b'{"text": "x", "n": ' + b"9" * 5_000 + b"}", "broken JSON"),
    ],
)
def test_a_broken_line_is_counted_and_its_neighbours_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    file = put(tmp_path / "a.jsonl", b'{"text": "one"}\n' + line + b'\n\n{"text": "two"}')
    first, broken, last = entries(file)
    assert (said(first), said(last)) == (["one"], ["two"])
    assert reason_of(broken) == reason


def test_a_line_without_end_is_passed_over_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 64)
    file = put(tmp_path / "a.jsonl", b'{"text": "one"}\n{"text": "' + b"x" * 1_000 + b'"}\n{"text": "two"}\n')
    first, broken, last = entries(file)
    assert (said(first), reason_of(broken), said(last)) == (["one"], "line too long", ["two"])


DEEP = "<tmx><body><tu>{0}{0}</tu></body></tmx>".format(
    '<tuv xml:lang="en"><seg>' + "<hi>" * 5_000 + "x" + "</hi>" * 5_000 + "</seg></tuv>"
)
BROKEN: list[tuple[str, bytes, str]] = [
    ("a.jsonl.gz", b"not zipped", "a.jsonl.gz.*damaged|damaged.*a.jsonl.gz"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 10)[:-12], "cut short"),
    ("a.txt.gz", gzip.compress(b"x" * 9_000, 0)[:-4_000], "cut short"),
    ("a.json", b"[1, 2", "is no JSON"),
    ("a.json", b"[" * 100_000, "is no JSON"),
    ("a.json", b'{"images": [], "annotations": []}', "holds no documents"),
    ("a.parquet", b"PAR1junk", "is no parquet file"),
    ("a.tar", b"junk" * 300, "a.tar, byte 0: torn header"),
    ("a.csv", b'image,caption\na.jpg,"' + b"x" * 200_000 + b'"', "broken table"),
    ("a.csv", b"image,caption\na.jpg,\xff", "is not UTF-8"),
    ("a.token", b"a.jpg#0\tA dog\nno tab here", "line 2: no tab"),
    ("a.tsv", b"\t", "--languages"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=sentence):
        entries(tmp_path / name)


def test_what_is_nested_or_named_to_hurt_is_only_counted(tmp_path: Path) -> None:
    images = [{"id": [1], "file_name": "a"}, {"id": 2, "file_name": ["a"]}]
    annotations = [{"image_id": {"a": 1}, "caption": 2}, {"image_id": 2, "caption": "A dog."}]
    coco = put(tmp_path / "coco.json", {"images": images, "annotations": annotations})
    assert [reason_of(entry) for entry in entries(coco)] == ["no words", "no words"]
    assert [reason_of(entry) for entry in entries(put(tmp_path / "deep.tmx", DEEP))] == ["language missing"]
    for nested in (">" * 5_000, "[" * 5_000, "- " * 5_000):
        assert len(entries(put(tmp_path / "pages" / "a.md", nested + "x"))) == 1
