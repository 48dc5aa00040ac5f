"""Indexes for a folder of shards: fresh ones are left alone, torn shards are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.index import index_path, read_index
from data_pipelines.indexing import index_shards
from data_pipelines.tar import END
from tests.data_pipelines.broken_shards import page


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    for number, keys in enumerate(("ab", "c", "def")):
        (tmp_path / f"{number}.tar").write_bytes(b"".join(page(key) for key in keys) + END)
    return sorted(str(path) for path in tmp_path.glob("*.tar"))


def test_every_shard_gets_an_index_and_fresh_ones_stay(shards: list[str]) -> None:
    first = index_shards(shards)
    assert (first.shards, first.documents, first.written, first.torn) == (3, 6, 3, ())
    made = [index_path(Path(shard)).stat().st_mtime_ns for shard in shards]
    Path(shards[1]).write_bytes(page("c") + page("d") + END)
    again = index_shards(shards)
    assert (again.documents, again.written) == (7, 1)
    left = [index_path(Path(shard)).stat().st_mtime_ns for shard in shards]
    assert (left[0], left[2]) == (made[0], made[2])
    assert index_shards(shards, force=True).written == 3


@pytest.mark.slow
def test_two_processes_write_the_same(shards: list[str]) -> None:
    index_shards(shards)
    one = [index_path(Path(shard)).read_bytes() for shard in shards]
    assert index_shards(shards, force=True, workers=2).documents == 6
    assert [index_path(Path(shard)).read_bytes() for shard in shards] == one


def test_a_torn_shard_is_named_and_the_others_are_indexed(shards: list[str]) -> None:
    Path(shards[1]).write_bytes(page("c") + page("d")[:513])
    found = index_shards(shards)
    assert found.torn == (f"{shards[1]}, byte 1024: truncated",)
    assert (found.documents, found.written) == (5, 2)
    assert read_index(Path(shards[1])) is None


def test_shards_of_elsewhere_get_no_index() -> None:
    with pytest.raises(ValueError, match="not a file of this machine"):
        index_shards(["s3://bucket/a.tar"])
