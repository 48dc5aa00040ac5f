"""Indexes: Energon's own bytes, the same by the fast and the slow path, never believed where they cannot be true."""

from __future__ import annotations

import os
import struct
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import ShardError
from data_pipelines.index import index_path, is_fresh, read_index, sample_starts, write_index
from data_pipelines.naming import split_name
from data_pipelines.tar import END, header, members, padded
from tests.data_pipelines.test_tar import Entry, archive_of

tricky_names = st.sampled_from(
    (
        *("a.json", "a.0.jpg", "a/b.json", "a/b.0.jpg", "ab.json", "a.b/c.jpg", "a.b/c.txt", "b.json", ".hidden.jpg"),
        *("__meta__", "__meta__/x.json", "__a__b.json", "noext", "a.", "ä.json", "ä.0.jpg", "d" * 101 + ".json"),
    )
)


def plain_archive(*files: tuple[str, int]) -> bytes:
    return b"".join(header(name, size) + bytes(padded(size)) for name, size in files) + END


def starts_by_members(archive: bytes) -> list[int]:
    """The slow, readable way."""
    starts, last, end = [], None, 0
    for member in members(archive, "x.tar"):
        found = split_name(member.name)
        if found is not None and found[0] != last:
            starts.append(member.start)
            last = found[0]
        end = member.end
    return [*starts, end]


@given(st.lists(tricky_names, max_size=8), st.sampled_from(["ustar", "gnu", "pax"]))
def test_the_fast_path_gives_the_starts_of_the_slow_one(names: list[str], form: str) -> None:
    try:
        archive = archive_of([Entry(name, b"x" * (300 * place)) for place, name in enumerate(names)], form)
    except ValueError:  # a name that ustar cannot hold
        return
    assert sample_starts(archive, "x.tar") == starts_by_members(archive)


@pytest.mark.parametrize("size", [b"00000000089\0", b"-0000001000\0", b"000000002000", b"0000000012 \0"])
def test_the_fast_path_reads_sizes_as_the_slow_one(size: bytes) -> None:
    block = bytearray(header("b.txt", 10))
    block[124:136] = size
    archive = plain_archive(("a.txt", 1))[: -len(END)] + bytes(block) + bytes(1024) + END
    outcomes = []
    for way in (lambda: sample_starts(archive, "x"), lambda: starts_by_members(archive)):
        try:
            outcomes.append(str(way()))
        except ShardError as error:
            outcomes.append(str(error).partition(",")[2])
    assert outcomes[0] == outcomes[1]


def test_what_stands_behind_the_end_of_a_name_is_no_part_of_it() -> None:
    block = bytearray(header("a.0.jpg", 0))
    block[10:15] = b"b/c.d"  # after the NUL
    archive = plain_archive(("a.json", 0))[: -len(END)] + bytes(block) + END
    assert sample_starts(archive, "x.tar") == [0, 1024] == starts_by_members(archive)


def test_the_worked_example_of_energon() -> None:
    archive = plain_archive(("a.jpg", 600), ("a.txt", 2), ("b.jpg", 10), ("b.json", 2))
    assert sample_starts(archive, "x.tar") == [0, 2560, 4608]


@pytest.mark.slow
@settings(max_examples=40)  # each waits for the disk
@given(st.lists(tricky_names.filter(lambda name: name != "a."), min_size=1, max_size=8))
def test_index_bytes_are_those_energon_writes(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    folder = tmp_path_factory.mktemp("energon")
    tar = folder / "s.tar"
    tar.write_bytes(archive_of([Entry(name, name.encode()) for name in names], "gnu"))
    list(WebdatasetPreparator._preprocess_tar("s.tar", {"s.tar": 0}, EPath(str(folder)), 50))
    theirs = index_path(tar).read_bytes()
    write_index(tar, sample_starts(tar.read_bytes(), "s.tar"))
    assert index_path(tar).read_bytes() == theirs


@pytest.mark.slow
def test_energon_reads_our_index(tmp_path: Path) -> None:
    from megatron.energon.flavors.webdataset.itar import TarIndexReader

    write_index(tmp_path / "s.tar", [0, 2560, 4608])
    with TarIndexReader(str(tmp_path / "s.tar")) as reader:
        assert list(reader) == [0, 2560, 4608]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "s.tar"
    path.write_bytes(plain_archive(("a.txt", 1), ("b.txt", 1)))
    write_index(path, [0, 1024, 2048])
    return path


def test_a_fresh_index_is_read(shard: Path) -> None:
    assert is_fresh(shard)
    assert read_index(shard) == [0, 1024, 2048]


def test_an_index_older_than_its_tar_is_not_believed(shard: Path) -> None:
    made = os.stat(shard).st_mtime_ns
    os.utime(index_path(shard), ns=(made - 1, made - 1))
    assert not is_fresh(shard)
    assert read_index(shard) is None


@pytest.mark.parametrize(
    "numbers",
    [[], [0, 1024, 9999 * 512], [0, 1000, 2048], [1024, 0, 2048], [0, 0, 2048]],
    ids=["empty", "beyond the end", "within a block", "backwards", "twice the same"],
)
def test_an_index_that_cannot_be_this_tars_is_not_believed(shard: Path, numbers: list[int]) -> None:
    index_path(shard).write_bytes(struct.pack(f"<{len(numbers)}Q", *numbers))
    assert read_index(shard) is None
    index_path(shard).write_bytes(struct.pack("<3Q", 0, 1024, 2048) + b"1")
    assert read_index(shard) is None


def test_a_missing_index_is_no_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w"):
        pass
    assert read_index(tmp_path / "s.tar") is None
