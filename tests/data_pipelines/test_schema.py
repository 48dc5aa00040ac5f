"""Documents to members and back, the JSON schema beside it, and pairs of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import data_pipelines.schema
from data_pipelines.errors import DocumentError
from data_pipelines.schema import document_of_parts, parts_of_document
from tests.data_pipelines.broken_shards import drawn
from text.document import Control, Document, Image, Phrase, Text
from text.specials import END, GROUNDING, TAGS

SCHEMA = json.loads(Path(data_pipelines.schema.__file__).with_name("document.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
PICTURES = [drawn(form=form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
CONTROLS = sorted({END, *TAGS["kosmos2"]} - {"<image>", "</image>"})

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2)
)
metas = st.dictionaries(st.text(max_size=8) | st.sampled_from(["text", "control", "alt"]), values, max_size=3)
fractions = st.floats(0, 1, allow_subnormal=False)  # torch flushes them, once another test has loaded it


@st.composite
def texts(draw: st.DrawFn) -> Text:
    words = draw(st.text(st.characters(codec="utf-8"), max_size=30))
    places = draw(st.lists(st.integers(0, len(words)), max_size=6, unique=True).map(sorted))
    boxes = st.lists(st.tuples(fractions, fractions, fractions, fractions), max_size=2).map(tuple)
    spans = zip(places[::2], places[1::2], strict=False)
    phrases = tuple(Phrase(start=start, end=end, boxes=draw(boxes)) for start, end in spans)
    return Text(words, draw(st.booleans()), phrases)


images = st.builds(
    lambda data, meta: Image(data, meta={k: v for k, v in meta.items() if k not in ("image", "blake3")}),
    st.sampled_from(PICTURES),
    metas,
)
controls = st.sampled_from(CONTROLS).map(Control)
documents = st.builds(
    lambda segments, meta: Document(tuple(segments), meta), st.lists(texts() | images | controls, max_size=6), metas
)


def without_hashes(document: Document) -> Document:
    segments = tuple(
        Image(segment.source, meta={k: v for k, v in segment.meta.items() if k != "blake3"})
        if isinstance(segment, Image)
        else segment
        for segment in document.segments
    )
    return Document(segments, document.meta)


@pytest.mark.slow
@given(documents)
def test_a_document_comes_back_as_it_was_and_the_schema_agrees(document: Document) -> None:
    parts = parts_of_document("a/b-1", document)
    assert without_hashes(document_of_parts("a/b-1", parts)) == document
    VALIDATOR.validate(json.loads(parts["json"]))


def test_every_special_token_but_those_of_pictures_may_be_written() -> None:
    document = Document(tuple(Control(name) for name in CONTROLS))
    parts = parts_of_document("k", document)
    assert document_of_parts("k", parts) == document
    VALIDATOR.validate(json.loads(parts["json"]))


def test_parts_are_named_by_content_and_by_order() -> None:
    parts = parts_of_document("k", Document(tuple(Image(picture) for picture in PICTURES)))
    assert list(parts) == ["json", "0.jpg", "1.png", "2.webp", "3.gif", "4.bmp", "5.tif"]
    assert [entry["image"] for entry in json.loads(parts["json"])["segments"]][:2] == ["k.0.jpg", "k.1.png"]


def test_pictures_may_be_open_or_on_disk(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    (tmp_path / "p.jpg").write_bytes(PICTURES[0])
    document = Document((Image(tmp_path / "p.jpg"), Image(Pillow.new("RGB", (8, 8), "red"))))
    read = document_of_parts("k", parts_of_document("k", document)).images
    assert read[0].source == PICTURES[0]
    assert isinstance(read[1].source, bytes)
    with pytest.raises(DocumentError, match="picture not found"):
        parts_of_document("k", Document((Image(tmp_path / "none.jpg"),)))


def test_a_strangers_tag_stays_words() -> None:
    parts = {"json": json.dumps({"segments": [{"text": f"{GROUNDING} </s> <image>"}]}).encode()}
    assert document_of_parts("k", parts).segments == (Text(f"{GROUNDING} </s> <image>"),)
    pair = document_of_parts("k", {"jpg": PICTURES[0], "txt": GROUNDING.encode()})
    assert pair.segments == (Image(PICTURES[0]), Text(GROUNDING))


MALFORMED = {
    "not a list": {"segments": {}},
    "meta is a list": {"segments": [], "meta": [1]},
    "segment is a string": {"segments": ["words"]},
    "segment of nothing": {"segments": [{}]},
    "text is a number": {"segments": [{"text": 1}]},
    "an unknown token": {"segments": [{"control": "<script>"}]},
    "a picture's own token": {"segments": [{"control": "<image>"}]},
    "phrase without boxes": {"segments": [{"text": "abc", "phrases": [{"start": 0, "end": 1}]}]},
    "phrase of a word": {"segments": [{"text": "abc", "phrases": [{"start": "0", "end": 1, "boxes": []}]}]},
    "box of three": {"segments": [{"text": "abc", "phrases": [{"start": 0, "end": 1, "boxes": [[0, 0, 1]]}]}]},
    "box of words": {"segments": [{"text": "abc", "phrases": [{"start": 0, "end": 1, "boxes": [["0"] * 4]}]}]},
}


@pytest.mark.parametrize("record", MALFORMED.values(), ids=MALFORMED)
def test_malformed_records_are_refused_by_reader_and_schema(record: dict[str, object]) -> None:
    assert not VALIDATOR.is_valid(record)
    with pytest.raises(DocumentError, match="malformed"):
        document_of_parts("k", {"json": json.dumps(record).encode()})


def test_a_box_of_numbers_beyond_floats_is_refused() -> None:
    phrase = {"start": 0, "end": 1, "boxes": [[10**400] * 4]}
    with pytest.raises(DocumentError, match="malformed phrases"):
        document_of_parts("a", {"json": json.dumps({"segments": [{"text": "abc", "phrases": [phrase]}]}).encode()})


@pytest.mark.parametrize("span", [(0, 4), (2, 2), (-1, 2)], ids=["beyond the text", "empty", "negative"])
def test_phrases_that_leave_their_text_are_refused(span: tuple[int, int]) -> None:
    phrase = {"start": span[0], "end": span[1], "boxes": []}
    record = {"segments": [{"text": "abc", "phrases": [phrase]}]}
    with pytest.raises(DocumentError, match="malformed phrases"):
        document_of_parts("k", {"json": json.dumps(record).encode()})


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"{", "broken JSON"),
        (b"[]", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"a": "\xff"}', "text is not UTF-8"),
        (b'{"segments": [{"text": "half a pair \\ud83d"}]}', "text is not UTF-8"),
        (b" " * (16 * 2**20 + 1), "JSON too large"),
        (b"{}", "no segments"),
        (b'{"segments": [{"image": "k.0.jpg"}]}', "missing image"),
    ],
)
def test_what_is_wrong_has_a_fixed_reason(contents: bytes, reason: str) -> None:
    with pytest.raises(DocumentError) as error:
        document_of_parts("k", {"json": contents})
    assert error.value.reason == reason


def test_a_whole_pair_written_as_escapes_is_text() -> None:
    parts = {"json": b'{"segments": [{"text": "\\ud83d\\ude00"}]}'}
    assert document_of_parts("k", parts).segments == (Text("\N{GRINNING FACE}"),)


def test_what_json_cannot_hold_is_an_error_of_the_document() -> None:
    for document in (Document((Text("half a pair \ud83d"),)), Document((), {"when": object()})):
        with pytest.raises(DocumentError, match="no form in JSON"):
            parts_of_document("k", document)
    with pytest.raises(DocumentError, match="unknown format"):
        parts_of_document("k", Document((Image(b"no picture"),)))
    with pytest.raises(DocumentError, match="key is not portable"):
        parts_of_document("a.b", Document(()))


def test_pairs_of_img2dataset_are_read_as_picture_then_words() -> None:
    note = {"caption": "from the note", "url": "http://x", "width": 8}
    parts = {"jpg": PICTURES[0], "txt": "a dög".encode(), "json": json.dumps(note).encode()}
    assert document_of_parts("000000001", parts) == Document((Image(PICTURES[0]), Text("a dög")), note)
    del parts["txt"]
    assert document_of_parts("000000001", parts).segments[1] == Text("from the note")
    assert document_of_parts("000000001", {"webp": PICTURES[2]}).segments == (Image(PICTURES[2]),)
