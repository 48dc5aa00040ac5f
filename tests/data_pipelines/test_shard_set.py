"""Many shards read like one list, with a bounded number of them open."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.shard import ShardWriter
from data_pipelines.shard_set import ShardSet
from text.document import Document, Text


def shards(folder: Path, counts: tuple[int, ...]) -> list[str]:
    """Shards whose documents are keyed by shard and number."""
    paths = []
    for place, count in enumerate(counts):
        with ShardWriter(folder / f"{place}.tar") as writer:
            for number in range(count):
                writer.write(f"{place}-{number}", Document((Text("words"),)))
        paths.append(str(folder / f"{place}.tar"))
    return paths


def test_numbers_run_through_the_shards_empty_ones_too(tmp_path: Path) -> None:
    with ShardSet(shards(tmp_path, (2, 0, 3, 1, 0))) as samples:
        assert samples.counts == (2, 0, 3, 1, 0)
        keys = [samples[number].key for number in range(len(samples))]
        assert keys == ["0-0", "0-1", "2-0", "2-1", "2-2", "3-0"]
        for number in (-1, 6):
            with pytest.raises(IndexError, match="there are 6 documents"):
                samples[number]


def test_few_shards_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.shard_set.MAX_OPEN", 2)
    with ShardSet(shards(tmp_path, (1, 1, 1, 1))) as samples:
        for number in (0, 3, 1, 2, 0):
            assert samples[number].key == f"{number}-0"
            assert len(samples._open) <= 2


def test_with_known_counts_only_the_shard_asked_for_is_opened(tmp_path: Path) -> None:
    (_, second) = shards(tmp_path, (2, 2))
    with ShardSet([str(tmp_path / "not-there.tar"), second], (2, 2)) as samples:
        assert samples[3].key == "1-1"
        with pytest.raises(FileNotFoundError):
            samples[0]
