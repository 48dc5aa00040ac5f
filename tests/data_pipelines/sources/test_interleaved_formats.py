"""MMC4, OBELICS, chats, grounded captions and document lists keep reading order, and count the pictures they lack."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from data_pipelines.sources.source import Options
from tests.data_pipelines.sources.piles import entries, found, photo, put, put_lines, put_tar, reason, said
from text.document import Document, Phrase, Text


def _encoded(shade: int) -> str:
    return base64.b64encode(photo(shade)).decode()


def _mmc4(**second: object) -> dict[str, object]:
    first = {"image_name": "1.jpg", "matched_text_index": 2, "matched_sim": 0.3, "image_base64": _encoded(1)}
    return {
        "url": "https://x.org",
        "text_list": ["One.", "Two.", "Three."],
        "image_info": [first, second],
        "similarity_matrix": [],
    }


def test_mmc4_puts_a_picture_before_the_sentence_it_matches(tmp_path: Path) -> None:
    file = put_lines(
        tmp_path / "docs.jsonl.gz", [_mmc4(image_name="2.jpg", matched_text_index=0, image_base64=_encoded(2))]
    )
    assert found(file) == "mmc4"
    (entry,) = entries(file)
    assert said(entry) == [photo(2), "One. Two.", photo(1), "Three."]
    assert isinstance(entry.document, Document)
    assert entry.document.images[1].meta == {"matched_sim": 0.3, "image_name": "1.jpg"}
    assert entry.document.meta == {"url": "https://x.org"}


def test_mmc4_finds_pictures_in_a_folder_and_counts_those_it_lacks(tmp_path: Path) -> None:
    put(tmp_path / "pictures" / "2.jpg", photo(2))
    lines = [_mmc4(image_name="2.jpg", matched_text_index=0), _mmc4(image_name="3.jpg", matched_text_index=0)]
    tar = put_tar(tmp_path / "0.tar", {"a.json": lines[0], "b.json": lines[1]})
    full, short = entries(tar, options=Options(images=tmp_path / "pictures"))
    assert said(full) == [photo(2), "One. Two.", photo(1), "Three."]
    assert (said(short), short.notes) == (["One. Two.", photo(1), "Three."], ("left out: picture not found",))


def test_mmc4_refuses_a_match_that_is_no_sentence(tmp_path: Path) -> None:
    (entry,) = entries(put_lines(tmp_path / "docs.jsonl", [_mmc4(image_name="2.jpg", matched_text_index=3)]))
    assert reason(entry) == "malformed record"


def test_obelics_reads_parquet_with_bytes_and_with_addresses_kept_in_a_folder(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    put(tmp_path / "images" / "x.org" / "a" / "b.jpg", photo(2))
    rows = [
        {
            "images": [None, "https://x.org/a/b.jpg?w=1", None],
            "texts": ["One", None, "Two"],
            "metadata": json.dumps([None, {"alt_text": "b"}, None]),
            "general_metadata": json.dumps({"url": "https://x.org"}),
        },
        {"images": ["https://x.org/gone.jpg"], "texts": [None], "metadata": None, "general_metadata": None},
    ]
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert found(tmp_path) == "obelics"
    full, gone = entries(tmp_path)
    assert said(full) == ["One", photo(2), "Two"]
    assert isinstance(full.document, Document)
    assert full.document.images[0].meta["alt_text"] == "b"
    assert full.document.meta == {"url": "https://x.org"}
    assert reason(gone) == "picture elsewhere"
    held = [{"images": [{"bytes": photo(1), "path": None}, None], "texts": [None, "One"]}] * 150
    write_table(pyarrow.Table.from_pylist(held), tmp_path / "b.parquet", row_group_size=40)
    read = entries(tmp_path / "b.parquet")
    assert [said(entry) for entry in read] == [[photo(1), "One"]] * 150


def test_a_slice_of_parquet_is_the_same_whatever_the_row_groups(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    from data_pipelines.creation import plan

    for name, size in (("a", 7), ("b", 100)):
        write_table(
            pyarrow.table({"text": [f"{name}{number}" for number in range(100)]}),
            tmp_path / f"{name}.parquet",
            row_group_size=size,
        )
    opened = plan([tmp_path], Options()).opened
    assert [said(entry)[0] for entry in opened.read(95, 103)] == ["a95", "a96", "a97", "a98", "a99", "b0", "b1", "b2"]
    assert [said(entry)[0] for entry in opened.read(13, 15)] == ["a13", "a14"]


def test_llava_learns_answers_only_and_puts_pictures_where_their_tags_are(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A dog."},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "Yes."},
    ]
    chats = [
        {"id": "1", "image": "a.jpg", "conversations": turns},
        {"id": "2", "conversations": turns[2:]},
        {"id": "3", "image": "a.jpg", "conversations": turns[2:]},
    ]
    file = put(tmp_path / "data.json", chats)
    put(tmp_path / "images" / "a.jpg", photo(1))
    assert found(file) == found(tmp_path) == "llava"
    tagged, bare, untagged = entries(file)
    assert said(tagged) == [photo(1), "[What is it?]", "A dog.", "[Sure?]", "Yes."]
    assert said(bare) == ["[Sure?]", "Yes."]
    assert said(untagged) == [photo(1), "[Sure?]", "Yes."]


def test_messages_of_chat_apis_are_read_with_their_pictures(tmp_path: Path) -> None:
    user = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "What?"}],
    }
    messages = [{"role": "system", "content": "Be kind."}, user, {"role": "assistant", "content": "A dog."}]
    file = put_lines(
        tmp_path / "chat.jsonl", [{"messages": messages}, {"messages": [{"role": "owner", "content": "x"}]}]
    )
    put(tmp_path / "a.jpg", photo(1))
    chat, unknown = entries(file)
    assert said(chat) == ["[Be kind.]", photo(1), "[What?]", "A dog."]
    assert reason(unknown) == "unknown role"


def test_more_image_tags_than_pictures_are_refused(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image> <image>"}, {"from": "gpt", "value": "A dog."}]
    (entry,) = entries(put(tmp_path / "data.json", [{"image": "a.jpg", "conversations": turns}]))
    assert reason(entry) == "more image tags than pictures"


def test_grounded_captions_keep_phrases_and_all_their_boxes(tmp_path: Path) -> None:
    box, other = [0.0, 0.1, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]
    spans = [[0.0, 10.0, *box, 0.9], [0, 10, *other, 0.8], [4, 10, *box, 0.9], [15.0, 20.0, *other, 0.7]]
    record = {
        "caption": "two brown dogs near water",
        "noun_chunks": [[0, 1, *box, 1]],
        "ref_exps": spans,
        "clip_similarity_vitb32": 0.3,
    }
    tar = put_tar(tmp_path / "0.tar", {"a.jpg": photo(1), "a.txt": b"x", "a.json": record})
    assert found(tar) == "grounded"
    (entry,) = entries(tar)
    assert said(entry) == [photo(1), "<grounding>", "two brown dogs near water"]
    assert isinstance(entry.document, Document)
    first = Phrase(start=0, end=10, boxes=((0.0, 0.1, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)))
    second = Phrase(start=15, end=20, boxes=((0.5, 0.0, 1.0, 1.0),))
    assert entry.document.segments[2] == Text("two brown dogs near water", phrases=(first, second))
    assert entry.notes == ("left out: phrase inside another",)
    assert entry.document.meta == {"clip_similarity_vitb32": 0.3}


@pytest.mark.parametrize(
    "span",
    [
        [0, 99, 0, 0, 1, 1, 1],
        [0, 3, 0, 0, 2, 1, 1],
        [0, 3, 0.5, 0, 0.1, 1, 1],
        [0.5, 3, 0, 0, 1, 1, 1],
        ["0", 3, 0, 0, 1, 1],
        [3, 3, 0, 0, 1, 1, 1],
        [0, float("nan"), 0, 0, 1, 1, 1],
    ],
)
def test_a_phrase_that_is_nowhere_is_refused(tmp_path: Path, span: list[object]) -> None:
    file = put_lines(tmp_path / "g.jsonl", [{"image": "a.jpg", "caption": "two dogs", "ref_exps": [span]}])
    put(tmp_path / "a.jpg", photo(1))
    assert reason(entries(file)[0]) == "malformed phrases"


def test_document_lines_find_their_pictures_in_a_tar_beside(tmp_path: Path) -> None:
    put_tar(tmp_path / "images.tar", {"p.jpg": photo(1)})
    seq = [{"text": "One"}, {"image": "p.jpg"}, {"text": "Two"}]
    lines = [
        {"id": "a", "license": "MIT", "split": "train", "seq": seq},
        {"id": "b", "split": "val", "seq": [{"image": "q.jpg"}]},
        {"segments": [{"text": "Q", "loss": False}, {"control": "<grounding>"}], "meta": {"source": "web"}},
    ]
    put_lines(tmp_path / "docs.jsonl", lines)
    assert found(tmp_path) == "documents"
    first, gone, own = entries(tmp_path)
    assert said(first) == ["One", photo(1), "Two"]
    assert isinstance(first.document, Document)
    assert first.document.meta == {"id": "a", "license": "MIT", "split": "train"}
    assert reason(gone) == "picture not found"
    assert said(own) == ["[Q]", "<grounding>"]
    assert isinstance(own.document, Document)
    assert own.document.meta == {"source": "web"}
