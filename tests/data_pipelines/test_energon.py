"""The Energon folder: what Energon itself writes, opened by Energon, and made again without reading twice."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from data_pipelines.energon import META_FOLDER, prepare_for_energon
from data_pipelines.indexing import index_shards
from data_pipelines.shard import ShardWriter
from tests.data_pipelines.broken_shards import drawn
from text.document import Document, Image, Text

QUERIES = {
    "samples": "SELECT * FROM samples ORDER BY tar_file_id, sample_index",
    "parts": "SELECT * FROM sample_parts ORDER BY tar_file_id, sample_index, content_byte_offset",
    "indexes": "SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY name",
}


def write_shard(path: Path, *keys: str) -> Path:
    with ShardWriter(path) as writer:
        for key in keys:
            writer.write(key, Document((Text(f"before {key}"), Image(drawn()), Text("after"))))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard(tmp_path / "train-0.tar", "a", "b")
    write_shard(tmp_path / "more" / "train-1.tar", "c")
    write_shard(tmp_path / "val-0.tar", "d")
    return tmp_path


def prepare(folder: Path) -> int:
    """Shards that were read."""
    shards = sorted(folder.glob("**/*.tar"))
    index_shards([str(shard) for shard in shards])
    return prepare_for_energon(folder, shards).read


def tables(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(folder / META_FOLDER / "index.sqlite")) as database:
        return {name: database.execute(query).fetchall() for name, query in QUERIES.items()}


def test_shards_that_did_not_change_are_not_read_again(folder: Path) -> None:
    assert prepare(folder) == 3
    before = tables(folder)
    assert prepare(folder) == 0
    assert tables(folder) == before
    write_shard(folder / "more" / "train-0.tar", "e", "f")  # stands before the others: all numbers move
    assert prepare(folder) == 1
    moved = tables(folder)
    (folder / META_FOLDER / "index.sqlite").unlink()
    assert prepare(folder) == 4
    assert tables(folder) == moved


def test_a_shard_written_anew_is_read_again(folder: Path) -> None:
    prepare(folder)
    write_shard(folder / "val-0.tar", "x", "y")
    assert prepare(folder) == 1
    info = json.loads((folder / META_FOLDER / ".info.json").read_text())
    assert info["shard_counts"] == {"more/train-1.tar": 1, "train-0.tar": 2, "val-0.tar": 2}


def test_a_key_that_comes_twice_is_refused_by_name(folder: Path) -> None:
    write_shard(folder / "zz.tar", "a")
    with pytest.raises(ValueError, match=r"zz\.tar holds a key that is there already"):
        prepare(folder)
    assert not list((folder / META_FOLDER).glob("*index.sqlite*"))


def test_shards_go_to_the_split_their_name_begins_with_and_edits_stay(folder: Path) -> None:
    prepare(folder)
    split = json.loads((folder / META_FOLDER / "split.yaml").read_text())
    assert split["split_parts"] == {"train": ["more/train-1.tar", "train-0.tar"], "val": ["val-0.tar"], "test": []}
    uuid = (folder / META_FOLDER / "index.uuid").read_text()
    (folder / META_FOLDER / "dataset.yaml").write_text("sample_type: mine\n")
    prepare(folder)
    assert (folder / META_FOLDER / "dataset.yaml").read_text() == "sample_type: mine\n"
    assert (folder / META_FOLDER / "index.uuid").read_text() == uuid


def test_a_broken_index_is_made_anew(folder: Path) -> None:
    prepare(folder)
    before = tables(folder)
    (folder / META_FOLDER / "index.sqlite").write_bytes(b"no database" * 100)
    assert prepare(folder) == 3
    assert tables(folder) == before


@pytest.mark.slow
def test_the_tables_are_those_energon_makes(folder: Path) -> None:
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    prepare(folder)
    ours = tables(folder)
    (folder / META_FOLDER / "index.sqlite").unlink()
    WebdatasetPreparator.prepare_dataset(
        EPath(str(folder)),
        ["more/train-1.tar", "train-0.tar", "val-0.tar"],
        split_parts_ratio=[("train", 1.0)],
        workers=1,
    )
    theirs = tables(folder)
    assert ours["samples"] == theirs["samples"]
    assert ours["parts"] == theirs["parts"]
    assert set(theirs["indexes"]) <= set(ours["indexes"])


@pytest.mark.slow
def test_energon_reads_every_document(folder: Path) -> None:
    import torch
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        InterleavedSample,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @stateless
    def cook(sample: dict[str, object]) -> InterleavedSample:
        key, record = sample["__key__"], sample["json"]
        sequence = [
            segment["text"] if "text" in segment else sample[segment["image"].removeprefix(f"{key}.")]
            for segment in record["segments"]  # type: ignore[index]
        ]
        return InterleavedSample(**basic_sample_keys(sample), sequence=sequence)

    class Encoder(DefaultTaskEncoder[InterleavedSample, InterleavedSample, InterleavedSample, InterleavedSample]):
        cookers = (Cooker(cook),)

        def batch(self, samples: list[InterleavedSample]) -> InterleavedSample:
            return samples[0]

    prepare(folder)
    dataset = get_train_dataset(
        str(folder),
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=1,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
        repeat=False,
    )
    read = {sample.__key__: sample.sequence for sample in get_loader(dataset)}
    assert sorted(os.path.basename(key) for key in read) == ["a", "b", "c"]  # the train split
    words, picture, after = read["a"]
    assert (words, after) == ("before a", "after")
    assert isinstance(picture, torch.Tensor)
    assert picture.shape == (3, 8, 8)
