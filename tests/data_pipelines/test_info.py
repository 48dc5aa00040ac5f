"""Counts from indexes and headers, of our shards and of others'."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from data_pipelines.info import info
from data_pipelines.shard import ShardWriter
from data_pipelines.stores import expand
from data_pipelines.tar import END
from tests.data_pipelines.broken_shards import drawn, file, page
from text.document import Control, Document, Image, Text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture = Image(drawn())
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("first", Document((Control("<grounding>"), Text("a\nb" + "c" * 400), picture, picture)))
        writer.write("second", Document((Text("words"),)))
    (tmp_path / "b.tar").write_bytes(page("third", drawn()) + END)
    return tmp_path


def test_documents_files_and_bytes_are_counted(folder: Path) -> None:
    found = info(expand([str(folder)]))
    assert (found.shards, found.documents) == (2, 3)
    assert found.size == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert found.parts == {"json": 3, "N.png": 3}
    assert found.part_sizes["N.png"] == 3 * len(drawn())
    assert (found.first_key, found.last_key) == ("first", "third")
    assert found.sample == ("<grounding>", "a b" + "c" * 297 + " ...", *[f"[picture, {len(drawn())} bytes]"] * 2)


def test_one_shard_or_many_the_sum_is_the_same(folder: Path) -> None:
    paths = expand([str(folder)])
    assert info(paths) == info(paths[:1]) + info(paths[1:])


def test_shards_of_img2dataset_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for key in ("000000001", "000000002"):
            for part in ("jpg", "txt", "json"):
                (tmp_path / f"{key}.{part}").write_bytes(b"{}" if part == "json" else b"a caption")
                tar.add(tmp_path / f"{key}.{part}", f"{key}.{part}")
    found = info(expand([str(tmp_path)]))
    assert found.documents == 2
    assert found.parts == {"jpg": 2, "txt": 2, "json": 2}
    assert found.sample == ("[picture, 9 bytes]", "a caption")


def test_a_first_document_that_is_wrong_is_shown_as_its_error(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(file("a.json", "{") + page("b") + END)
    found = info(expand([str(tmp_path)]))
    assert found.documents == 2
    assert "broken JSON" in found.sample[0]


def test_a_torn_shard_is_named_and_not_counted(folder: Path) -> None:
    (folder / "b.tar").write_bytes(page("third") + page("fourth")[:513])
    found = info(expand([str(folder)]))
    assert (found.shards, found.documents) == (2, 2)
    assert found.torn == (f"{folder / 'b.tar'}, byte 1024: truncated",)


def test_part_names_of_a_stranger_do_not_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(
        b"".join(file(f"k.{'x' * (n % 60)}{chr(97 + n % 26)}", "1") for n in range(500)) + END
    )
    found = info(expand([str(tmp_path)]))
    assert len(found.parts) <= 101
    assert sum(found.parts.values()) == 500
