"""Pairs of picture and words, in tars or side by side in a folder, and documents of our own form are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.errors import DocumentError, ShardError
from data_pipelines.index import write_index
from data_pipelines.sources.source import Options
from tests.data_pipelines.sources.piles import entries, found, photo, put, put_tar, reason, said
from text.document import Document, Phrase, Text

PAIR = {"000.jpg": photo(1), "000.txt": b"a dog , wet", "000.json": {"url": "https://x.org", "width": 12}}


def test_a_shard_of_img2dataset_is_read_verbatim(tmp_path: Path) -> None:
    put_tar(tmp_path / "00000.tar", PAIR)
    put(tmp_path / "00000_stats.json", {"count": 1})
    assert found(tmp_path) == "webdataset"
    (entry,) = entries(tmp_path)
    assert (entry.key, said(entry)) == ("000", [photo(1), "a dog , wet"])
    assert isinstance(entry.document, Document)
    assert entry.document.meta == {"url": "https://x.org", "width": 12}


def test_a_folder_of_pairs_is_read_like_a_tar_of_them(tmp_path: Path) -> None:
    for name, content in {**PAIR, "001.png": photo(2, "PNG"), "001.txt": b"a cat"}.items():
        put(tmp_path / "deep" / name, content)
    first, second = entries(tmp_path)
    assert (first.key, said(first)) == ("deep/000", [photo(1), "a dog , wet"])
    assert (second.key, said(second)) == ("deep/001", [photo(2, "PNG"), "a cat"])


def test_the_same_key_in_two_tars_gets_a_number(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        put_tar(tmp_path / name, PAIR)
    assert [entry.key for entry in entries(tmp_path)] == ["000", "000-2"]


def test_a_sample_whose_part_comes_twice_is_counted_not_halved(tmp_path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, data in (
            ("a.jpg", photo(1)),
            ("a.txt", b"x"),
            ("a.jpg", photo(2)),
            ("b.jpg", photo(3)),
            ("b.txt", b"y"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    first, second = entries(tmp_path, format="webdataset")
    assert reason(first) == "duplicate key"
    assert said(second) == [photo(3), "y"]


def test_our_own_form_keeps_loss_and_phrases_and_loses_a_bad_key(tmp_path: Path) -> None:
    phrase = {"start": 2, "end": 5, "boxes": [[0, 0, 0.5, 1]]}
    segments = [{"image": "b.x y.0.jpg"}, {"text": "What?", "loss": False}, {"text": "A dog", "phrases": [phrase]}]
    tar = put_tar(
        tmp_path / "0.tar",
        {"b/x y.json": {"segments": [{**segments[0], "image": "b/x y.0.jpg"}, *segments[1:]]}, "b/x y.0.jpg": photo(1)},
    )
    (entry,) = entries(tar)
    assert entry.key.startswith("b/x_y-")
    assert said(entry) == [photo(1), "[What?]", "A dog"]
    assert isinstance(entry.document, Document)
    assert entry.document.segments[2] == Text("A dog", phrases=(Phrase(start=2, end=5, boxes=((0, 0, 0.5, 1),)),))


def test_a_tar_is_read_by_number_not_from_its_beginning(tmp_path: Path) -> None:
    from data_pipelines.creation import plan

    members = {
        f"k{number}.{part}": content for number in range(9) for part, content in (("jpg", photo(number)), ("txt", b"x"))
    }
    opened = plan([put_tar(tmp_path / "0.tar", members)], Options()).opened
    assert [entry.key for entry in opened.read(5, 7)] == ["k5", "k6"]
    assert not any(isinstance(entry.document, DocumentError) for entry in opened.read(0, 9))


def test_an_index_of_another_tar_is_not_believed(tmp_path: Path) -> None:
    tar = put_tar(tmp_path / "0.tar", {**PAIR, "001.jpg": photo(2), "001.txt": b"x"})
    write_index(tar, [0, 512])
    with pytest.raises(ShardError, match="index does not fit the tar"):
        entries(tar)


def test_words_beside_a_picture_come_before_lists_of_captions(tmp_path: Path) -> None:
    tar = put_tar(tmp_path / "0.tar", {**PAIR, "000.json": {"captions": ["Another."]}})
    assert found(tar) == "webdataset"
    assert said(entries(tar)[0]) == [photo(1), "a dog , wet"]
