"""Shards keep their names where they can, and never one another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.shard_names import output_names

OUT = Path("out")


@pytest.mark.parametrize(
    "paths, names",
    [
        (["a/x-0.tar", "a/x-1.tar"], ["x-0.tar", "x-1.tar"]),
        (["a/x.tar", "b/x.tar"], ["a-x.tar", "b-x.tar"]),
        (["-", "s3://store/set/x.tar", "https://host/y.tar?key=1"], ["stdin.tar", "x.tar", "y.tar"]),
    ],
)
def test_names_are_those_of_the_shards_told_apart_by_their_folders(paths: list[str], names: list[str]) -> None:
    assert list(output_names(paths, OUT).values()) == names


@pytest.mark.parametrize(
    "paths", [["1/a/x.tar", "2/a/x.tar"], ["pipe:cat '../../x.tar'", "pipe:cat /etc/x.tar"], ["a/x y.tar", "a/x_y.tar"]]
)
def test_names_are_plain_different_and_inside_the_folder(paths: list[str]) -> None:
    names = list(output_names(paths, OUT).values())
    assert len(set(names)) == len(paths)
    assert all(name.endswith(".tar") and "/" not in name and not name.startswith(".") for name in names)


def test_a_shard_is_never_written_over(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="written over"):
        output_names([str(tmp_path / "x.tar")], tmp_path)
    with pytest.raises(ValueError, match="given twice"):
        output_names(["a.tar", "a.tar"], tmp_path)
