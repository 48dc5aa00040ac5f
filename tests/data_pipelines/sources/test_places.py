"""Sources are files and folders by pattern; files of a store are copied here for the while."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.sources.places import source_paths
from tests.data_pipelines.sources.piles import put


def test_patterns_and_braces_are_spelt_out_in_order(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        put(tmp_path / f"a-{number}.txt", "x")
    with source_paths([f"{tmp_path}/a-{{2..0}}.txt", f"{tmp_path}/*-[01].txt", str(tmp_path)]) as paths:
        assert [path.name for path in paths] == ["a-2.txt", "a-1.txt", "a-0.txt", "a-0.txt", "a-1.txt", tmp_path.name]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    put(tmp_path / "a[1].txt", "x")
    with source_paths([f"{tmp_path}/a[1].txt"]) as paths:
        assert [path.name for path in paths] == ["a[1].txt"]


def test_files_of_a_store_are_copied_and_go_away(tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe({"/piles/a.txt": b"one", "/piles/b.txt": b"two"})
    with source_paths(["memory://piles/*.txt"]) as paths:
        assert [(path.name, path.read_bytes()) for path in paths] == [("a.txt", b"one"), ("b.txt", b"two")]
        assert {path.stat().st_mtime for path in paths} == {0}
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("pattern", ["nothing-here.txt", "nothing-*.txt", "memory://nothing/*.txt"])
def test_what_is_not_there_is_said(pattern: str) -> None:
    with pytest.raises(FileNotFoundError), source_paths([pattern]):
        pass


@pytest.mark.parametrize("pattern", ["-", "pipe:cat x"])
def test_a_stream_cannot_be_read_by_number(pattern: str) -> None:
    with pytest.raises(ValueError, match="write it to a file first"), source_paths([pattern]):
        pass
