"""Keys that come in several shards, found with little memory and named by place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.key_census import KeyCensus, hashed

shards_of_keys = st.lists(st.lists(st.integers(0, 300), unique=True, max_size=40), max_size=6)


@given(shards_of_keys)
def test_the_later_shard_is_the_one_that_repeats(shards: list[list[int]]) -> None:
    expected: dict[int, list[int]] = {}
    seen: set[int] = set()
    with KeyCensus() as census:
        for number, keys in enumerate(shards):
            census.add((hashed(f"key-{key}" for key in keys), [512 * place for place in range(len(keys))]))
            repeated = [512 * place for place, key in enumerate(keys) if key in seen]
            if repeated:
                expected[number] = repeated
            seen |= set(keys)
        assert census.repeated() == expected


def test_a_key_of_three_shards_is_repeated_twice() -> None:
    with KeyCensus() as census:
        for place in (0, 512, 1024):
            census.add((hashed(["same"]), [place]))
        assert census.repeated() == {1: [512], 2: [1024]}


def test_its_folder_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with KeyCensus() as census:
        census.add((hashed(["a", "b"]), [0, 512]))
        assert list(tmp_path.rglob("*"))
    assert list(tmp_path.iterdir()) == []
