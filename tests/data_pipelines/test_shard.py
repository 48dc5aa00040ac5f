"""Shards written and read: the same bytes, whole or not at all, by us and by webdataset."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import DocumentError, ShardError
from data_pipelines.index import index_path, read_index, sample_starts, write_index
from data_pipelines.shard import MAX_MEMBER_BYTES, Shard, ShardWriter, open_shard, read_documents
from data_pipelines.tar import END, header
from tests.data_pipelines.broken_shards import drawn, file, page
from text.document import Document, Image, Text

PAGE = Document((Text("before"), Image(drawn()), Text("after")), {"source": "here"})
keys = st.lists(st.from_regex(r"[a-z0-9]{1,4}(/[a-z0-9]{1,4})?", fullmatch=True), unique=True, max_size=8)


@settings(max_examples=25)  # each waits for the disk
@given(keys, st.data())
def test_documents_come_back_in_order_and_by_number(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], draw: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("shard") / "s.tar"
    words = {name: draw.draw(st.text(st.characters(codec="utf-8"), max_size=700)) for name in names}
    with ShardWriter(path) as writer:
        for name in names:
            writer.write(name, Document((Text(words[name]),)))
    assert [
        (key, document.segments) for key, document in read_documents(str(path)) if isinstance(document, Document)
    ] == [(name, (Text(words[name]),)) for name in names]
    shard = Shard(path)
    assert len(shard) == len(names)
    assert [shard[number].key for number in range(len(shard))] == names
    assert read_index(path) == sample_starts(shard.archive, "s.tar")
    shard.close()


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        with ShardWriter(tmp_path / name) as writer:
            writer.write("one", PAGE)
            writer.write("two", Document((Text("words"),)))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert index_path(tmp_path / "a.tar").read_bytes() == index_path(tmp_path / "b.tar").read_bytes()


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path / "deep" / "s.tar") as writer:
            writer.write("one", PAGE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_refused_document_leaves_the_shard_as_it_was(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s.tar") as writer:
        writer.write("one", PAGE)
        with pytest.raises(DocumentError, match="duplicate key"):
            writer.write("one", PAGE)
        with pytest.raises(DocumentError, match="unknown format"):
            writer.write("two", Document((Image(b"no picture"),)))
        with pytest.raises(DocumentError, match="key is not portable"):
            writer.write_parts("k", {"x" * 200: b""})
        writer.write("three", PAGE)
        assert len(writer) == 2
    shard = Shard(tmp_path / "s.tar")
    assert [sample.key for sample in shard] == ["one", "three"]
    assert shard.starts == sample_starts(shard.archive, "s.tar")


@pytest.mark.slow
def test_webdataset_reads_what_we_write(tmp_path: Path) -> None:
    import webdataset

    with ShardWriter(tmp_path / "s.tar") as writer:
        writer.write("a/one", PAGE)
        writer.write("a/two", PAGE)
    samples = list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False))
    ours = list(Shard(tmp_path / "s.tar"))
    assert [sample["__key__"] for sample in samples] == ["a/one", "a/two"]
    for theirs, mine in zip(samples, ours, strict=True):
        assert {part: data for part, data in theirs.items() if not part.startswith("__")} == dict(mine.parts)


@pytest.mark.slow
def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "s.tar")) as sink:
        sink.write({"__key__": "one", "jpg": drawn(form="JPEG"), "txt": "a caption", "json": {"url": "x"}})
        sink.write({"__key__": "dotted.key", "txt": "words"})
    (_, pair), (key, _) = read_documents(str(tmp_path / "s.tar"))
    assert pair == Document((Image(drawn(form="JPEG")), Text("a caption")), {"url": "x"})
    assert key == "dotted"  # as webdataset itself reads it back


def test_a_wrong_index_is_told_and_never_followed(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(page("a") + page("b") + page("c") + END)
    write_index(path, [512, 2048, 3072])
    with pytest.raises(ShardError):
        Shard(path)[0]
    made = os.stat(path).st_mtime_ns - 1
    os.utime(index_path(path), ns=(made, made))
    assert [Shard(path)[number].key for number in range(3)] == ["a", "b", "c"]


def test_two_documents_of_one_key_side_by_side_are_told_by_number(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(page("a", words="first") + page("a", words="second") + page("b") + END)
    shard = Shard(tmp_path / "s.tar")
    assert [sample.key for sample in shard] == ["a", "a", "b"]
    assert len(shard) == 2  # as Energon counts
    with pytest.raises(DocumentError, match="duplicate key"):
        shard[0]
    assert shard[1].key == "b"


def test_a_number_out_of_range_is_an_index_error(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(page("a") + END)
    for number in (-1, 1):
        with pytest.raises(IndexError, match="has 1 samples"):
            Shard(tmp_path / "s.tar")[number]


def test_a_torn_shard_gives_what_stands_before_the_tear(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(page("a") + page("b") + page("c", drawn())[:-600])
    with open_shard(str(tmp_path / "s.tar")) as shard:
        samples = iter(shard)
        assert [next(samples).key, next(samples).key] == ["a", "b"]
        with pytest.raises(ShardError, match="truncated"):
            next(samples)


def test_a_document_that_is_wrong_stands_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(page("a") + file("b.json", "{") + page("c") + END)
    found = list(read_documents(str(tmp_path / "s.tar")))
    assert [key for key, _ in found] == ["a", "b", "c"]
    assert isinstance(found[1][1], DocumentError)


def test_a_member_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "s.tar", "wb") as hole:
        hole.write(header("a.jpg", MAX_MEMBER_BYTES + 1))
        hole.truncate(512 + MAX_MEMBER_BYTES + 512)
    with pytest.raises(ShardError, match="member larger than"):
        list(Shard(tmp_path / "s.tar"))


def test_an_empty_file_is_a_shard_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"")
    assert list(Shard(tmp_path / "s.tar")) == []
    assert len(Shard(tmp_path / "s.tar")) == 0


def test_standard_input_is_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(page("a") + END)))
    assert [key for key, _ in read_documents("-")] == ["a"]
