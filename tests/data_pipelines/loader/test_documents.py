"""Documents of a component: shards that vanish or change under a run are told of by name."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from data_pipelines.loader import stream
from data_pipelines.loader.documents import Documents
from data_pipelines.loader.loader import Loader
from data_pipelines.loader.stream import Stream
from tests.data_pipelines.loader.words import Piece, WordEncoder, mixture, write_set


def test_a_shard_that_vanishes_is_named(tmp_path: Path) -> None:
    component = write_set(tmp_path, "set", [[3, 4], [5, 6]])
    loader = Loader({"s": Stream(mixture=mixture(component), encoder=WordEncoder(), rows=10)}, lanes=1)
    (tmp_path / "set" / "001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"001\.tar"):
        list(islice(loader, 3))


def test_a_shard_with_other_documents_than_counted_is_named(tmp_path: Path) -> None:
    documents = Documents(write_set(tmp_path, "set", [[3, 4, 5]]))
    write_set(tmp_path, "set", [[3, 4]])
    with pytest.raises(OSError, match=r"000\.tar holds 2 documents and held 3 when the run began"):
        documents[0]


def test_few_shards_are_open_however_many_components_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "OPEN_SHARDS", 6)
    components = [write_set(tmp_path, name, [[2]] * 8) for name in ("a", "b", "c")]
    before = len(os.listdir("/proc/self/fd"))
    loader = Loader({"s": Stream(mixture=mixture(*components), encoder=WordEncoder(), rows=10)}, lanes=1)
    assert all(list(islice(loader, 5)))
    assert len(os.listdir("/proc/self/fd")) - before <= 6


def test_an_error_that_is_no_fault_of_the_document_says_where_it_came_up(tmp_path: Path) -> None:
    component = write_set(tmp_path, "set", [[3]])
    wrong = Stream(mixture=mixture(component), encoder=_Wrong(), rows=10)
    with pytest.raises(ZeroDivisionError) as caught:
        next(iter(Loader({"s": wrong}, lanes=1)))
    assert "while reading document set/0-0 of" in caught.value.__notes__[0]


class _Wrong(WordEncoder):
    def split(self, rows: Piece, length: int) -> list[Piece]:
        raise ZeroDivisionError
