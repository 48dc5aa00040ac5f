"""The bench `data` at a small size: every case comes out, all sides do the same work, and peers stand beside ours."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.shard import Shard, read_documents
from kosmos.bench import data_workers
from kosmos.bench.data import DATA_CASES, DataBench, run_data
from kosmos.bench.data_corpus import enlarged, pictures, write_pairs
from kosmos.bench.data_loader import VOCABULARY, webdataset_batches
from kosmos.bench.figure import Figure, table
from kosmos.cli.main import main
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer
from vision.image import open_image

PEERS = {
    "index": {"tarfile"},
    "read": {"webdataset"},
    "memory": set(),
    "fill": set(),
    "decode-small": {"pillow"},
    "decode-large": {"pillow"},
    "loader": {"webdataset"},
    "create-workers": {"one worker"},
    "filter-workers": {"one worker"},
}


@pytest.fixture
def small(tmp_path: Path) -> DataBench:
    """No real data, so pictures are drawn; times of the wall, as a short turn may take no processor time at all."""
    return DataBench(data=tmp_path, rounds=1, documents=64, pictures=16, long_run=300, clock=time.perf_counter)


def figure_of(bench: DataBench, case: str) -> Figure:
    (figure,) = run_data(replace(bench, cases=(case,)))
    return figure


@pytest.mark.parametrize(
    "case", ["index", "read", "decode-small", "decode-large", pytest.param("loader", marks=pytest.mark.slow)]
)
def test_a_case_stands_beside_its_peer_and_its_limit(case: str, small: DataBench) -> None:
    figure = figure_of(small, case)
    assert (figure.bench, figure.case) == ("data", case)
    assert set(figure.peers) == PEERS[case]
    assert all(value > 0 for value in (figure.ours, figure.limit, *figure.peers.values()))
    assert set(figure.spread) == {"ours", *PEERS[case]}
    assert not figure_of(replace(small, peers=False), case).peers


def test_differences_of_pixels_are_printed_and_small(small: DataBench) -> None:
    for case in ("decode-small", "decode-large"):
        figure = figure_of(small, case)
        assert figure.notes["mean difference"] < 1
        assert figure.notes["largest difference"] < 16
        assert "largest difference" in table([figure])
        assert json.loads(figure.to_json())["notes"].keys() == figure.notes.keys()


def test_memory_is_looked_at_from_start_to_end(small: DataBench) -> None:
    figure = figure_of(small, "memory")
    assert figure.unit == "MB"
    assert figure.notes["documents"] >= 300
    assert figure.ours == figure.notes["at the end"] <= figure.notes["peak"]
    assert figure.better_than(2 * figure.ours) == 2  # less is better


@pytest.mark.slow
@pytest.mark.parametrize("case", ["create-workers", "filter-workers"])
def test_two_workers_stand_beside_one(case: str, small: DataBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_workers, "COUNT", 10)
    figure = figure_of(small, case)
    assert set(figure.peers) == PEERS[case]
    assert figure.notes["processor time of 2 over 1"] > 0


def test_every_case_is_known() -> None:
    assert set(DATA_CASES) == set(PEERS)


@pytest.mark.slow
def test_the_peer_does_the_same_work(tmp_path: Path) -> None:
    paths = write_pairs(tmp_path / "pairs", tmp_path, documents=50, shards=2)
    tokenizer = Tokenizer(VOCABULARY.read_bytes(), specials="kosmos1")
    batches = list(webdataset_batches(paths, tokenizer))
    assert sum(len(batch.lengths_N) for batch in batches) == 50
    assert {tuple(batch.pixels_N3HW.shape[1:]) for batch in batches} == {(3, 224, 224)}
    first = next(iter(Shard(paths[0]))).parts["txt"].decode()
    ids = batches[0].ids_NT[0, : batches[0].lengths_N[0]].tolist()
    assert ids == [tokenizer.bos_id, *tokenizer.encode(first)]


def test_pairs_are_documents_of_picture_and_words(tmp_path: Path) -> None:
    paths = write_pairs(tmp_path / "pairs", tmp_path, documents=10, shards=2)
    documents = [document for path in paths for _, document in read_documents(str(path))]
    assert len(documents) == 10
    for document in documents:
        assert isinstance(document, Document)
        assert [type(segment) for segment in document.segments] == [Image, Text]


def test_photographs_are_taken_where_they_are(kosmos_data: Path) -> None:
    shard = Shard(kosmos_data / "flickr8k" / "train-000000.tar")
    assert pictures(kosmos_data, 3) == [shard[number].parts["jpg"] for number in range(3)]
    assert pictures(kosmos_data, 2) != pictures(kosmos_data / "absent", 2)


def test_an_enlarged_picture_is_the_same_one(tmp_path: Path) -> None:
    (picture,) = pictures(tmp_path, 1)
    large = open_image(enlarged(picture, 320, 240))
    assert large.shape == (240, 320, 3)
    assert np.abs(large.mean((0, 1)) - open_image(picture).mean((0, 1))).max() < 3


def test_the_command_prints_a_line_a_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "data", "--rounds", "1", "--data", str(tmp_path), "--without-peers", "--json"]
    assert main([*command, "--case", "index"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["case"] == "index"
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--case", "absent"])


def test_peers_are_only_imported_when_wanted(small: DataBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    assert figure_of(replace(small, peers=False), "read").ours > 0
    with pytest.raises(ImportError):
        figure_of(small, "read")
