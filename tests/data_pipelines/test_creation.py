"""Create: the same bytes whatever the workers and however often it was killed, and everything accounted for."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from data_pipelines.creation import Creation, create, plan
from data_pipelines.errors import DocumentError
from data_pipelines.execution import Execution
from data_pipelines.index import is_fresh
from data_pipelines.shard import Shard
from data_pipelines.sources.formats import SOURCES, load_source
from data_pipelines.sources.source import Entry, Options
from kosmos.cli.data.create import FORMATS
from tests.data_pipelines.sources.piles import photo, put, put_lines, put_tar
from text.document import Document, Image, Text


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _captions(folder: Path, count: int = 23) -> Path:
    """Pictures with captions in two tars, a broken one among them."""
    for tar, numbers in (("a", range(count // 2)), ("b", range(count // 2, count))):
        members: dict[str, object] = {}
        for number in numbers:
            members[f"k{number}.jpg"] = photo(number) if number != 3 else b"broken"
            members[f"k{number}.json"] = {"captions": [f"Number {number} .", "Other ."]}
        put_tar(folder / f"{tar}.tar", members)
    return folder


def _plan(source: Path, per_shard: int = 5, options: Options = Options()) -> Creation:  # noqa: B008  (frozen)
    return plan([source], options, per_shard=per_shard)


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one(tmp_path: Path) -> None:
    source = _captions(tmp_path / "source")
    put_lines(tmp_path / "zipped" / "docs.jsonl.gz", [{"text": f"Number {number}"} for number in range(23)])
    for pile in (source, tmp_path / "zipped"):
        alone = create(_plan(pile), tmp_path / "one" / pile.name, Execution(workers=1))
        together = create(_plan(pile), tmp_path / "two" / pile.name, Execution(workers=2))
        assert alone == together
        assert _contents(tmp_path / "one" / pile.name) == _contents(tmp_path / "two" / pile.name)


def test_shard_k_holds_entries_k_times_n_and_an_index(tmp_path: Path) -> None:
    report = create(_plan(_captions(tmp_path / "source")), tmp_path / "out", Execution())
    assert report.balanced
    assert (report.read, report.written, dict(report.dropped)) == (23, 22, {"picture of an unknown format": 1})
    assert report.examples == {"picture of an unknown format": ("k3",)}
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert [shard.name for shard in shards] == [f"documents-{number:06d}.tar" for number in range(5)]
    assert all(map(is_fresh, shards))
    assert [sample.key for sample in Shard(shards[1])] == ["k5", "k6", "k7", "k8", "k9"]
    assert [sample.key for sample in Shard(shards[0])] == ["k0", "k1", "k2", "k4"]


def test_only_the_wanted_split_is_written(tmp_path: Path) -> None:
    file = put_lines(
        tmp_path / "a.jsonl", [{"text": "A", "split": "train"}, {"text": "B", "split": "val"}, {"text": "C"}]
    )
    report = create(_plan(file, options=Options(split="val")), tmp_path / "out", Execution())
    assert (report.written, dict(report.dropped)) == (1, {"another split": 2})


@dataclass(frozen=True)
class _Deadly:
    """A source whose reader dies in the third shard, unless a file says that it died before."""

    count: int
    died: Path

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> Iterator[Entry]:
        for number in range(start, stop):
            if number == 12 and not self.died.exists():
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield Entry(f"k{number}", Document((Image(photo(number)), Text(f"Number {number}"))))


def _create_deadly(creation: Creation, out: Path) -> None:
    create(creation, out, Execution())


def test_a_killed_run_goes_on_and_leaves_finished_shards_alone(tmp_path: Path) -> None:
    source = put(tmp_path / "a.txt", "anything")
    first = _plan(source)
    deadly = replace(first, opened=_Deadly(23, tmp_path / "died"))
    process = multiprocessing.get_context("fork").Process(target=_create_deadly, args=(deadly, tmp_path / "out"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    finished = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in finished] == ["documents-000000.tar", "documents-000001.tar"]
    times = [path.stat().st_mtime_ns for path in finished]
    report = create(deadly, tmp_path / "out", Execution())
    assert (report.read, report.written) == (23, 23)
    assert [path.stat().st_mtime_ns for path in finished] == times
    create(deadly, tmp_path / "whole", Execution())
    assert _contents(tmp_path / "out") == _contents(tmp_path / "whole")


def test_a_source_that_changed_is_not_mixed_with_its_older_self(tmp_path: Path) -> None:
    file = put(tmp_path / "a.txt", "one")
    create(_plan(file), tmp_path / "out", Execution())
    create(_plan(file), tmp_path / "out", Execution(workers=2))
    put(file, "another")
    with pytest.raises(ValueError, match="other options; give a new folder"):
        create(_plan(file), tmp_path / "out", Execution())


@pytest.mark.slow
def test_what_webdataset_reads_is_what_we_wrote(tmp_path: Path) -> None:
    import webdataset

    create(_plan(_captions(tmp_path / "source"), per_shard=100), tmp_path / "out", Execution())
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "documents-000000.tar"), shardshuffle=False))
    assert len(samples) == 22
    assert samples[1]["__key__"] == "k1"
    assert samples[1]["0.jpg"] == photo(1)


def test_a_source_nobody_knows_is_answered_with_all_formats(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"looks like no format known here .*say which by --format: captioned, webdataset"
    ):
        plan([put(tmp_path / "a.bin", "x")], Options())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no files"):
        plan([tmp_path / "empty"], Options())


def test_a_source_of_two_faces_is_answered_with_both(tmp_path: Path) -> None:
    file = put_lines(tmp_path / "a.jsonl", [{"text_list": ["A"], "image_info": [], "noun_chunks": []}])
    with pytest.raises(ValueError, match="could be grounded or mmc4"):
        plan([file], Options())


def test_every_format_of_the_table_is_there() -> None:
    assert all(load_source(name) for name in SOURCES)
    assert tuple(SOURCES) == FORMATS
    with pytest.raises(ValueError, match="known formats: captioned"):
        load_source("unheard of")


REAL: Mapping[str, tuple[str, int, int, int]] = {
    "flickr8k": ("captioned", 7_000, 7_000, 1),
    "coco": ("captioned", 120, 120, 1),
    "vqa": ("captioned", 650, 650, 1),
    "interleaved": ("documents", 185, 339, -1),  # 324 pictures, some in several places
    "multi30k": ("parallel-records", 30_085, 0, 3),
    "udhr": ("parallel-records", 60, 0, -1),
    "text/books-val.jsonl.gz": ("text-records", 177, 0, 1),
}
"""Format, documents, pictures and texts a document (-1: they differ)."""


@pytest.mark.parametrize("name", REAL)
@pytest.mark.slow
def test_real_data_is_known_at_sight_and_read_to_the_last_document(kosmos_data: Path, name: str) -> None:
    format, documents, pictures, texts = REAL[name]
    creation = plan([kosmos_data / name], Options(verbatim=True))
    assert creation.format == format
    read = [entry.document for entry in creation.opened.read(0, len(creation.opened))]
    assert not [document for document in read if isinstance(document, DocumentError)]
    whole = [document for document in read if isinstance(document, Document)]
    assert (len(whole), sum(len(document.images) for document in whole)) == (documents, pictures)
    counts = {sum(isinstance(segment, Text) for segment in document.segments) for document in whole}
    if name != "vqa":
        assert texts < 0 or counts == {texts}


@pytest.mark.slow
def test_every_question_of_the_real_set_becomes_a_document(kosmos_data: Path) -> None:
    opened = plan([kosmos_data / "vqa"], Options(questions="qas", each="caption")).opened
    read = list(opened.read(0, len(opened)))
    assert len(read) == 4_269 + 1_336
    assert len({entry.key for entry in read}) == len(read)


def test_a_source_never_holds_its_own_output(tmp_path: Path) -> None:
    folder = _captions(tmp_path / "captions")
    put_tar(tmp_path / "documents-000000.tar", {"a.jpg": photo(1), "a.txt": b"A dog."})
    before = _contents(tmp_path)
    with pytest.raises(ValueError, match="lies in the source"):
        create(_plan(folder), folder / "out", Execution())
    with pytest.raises(ValueError, match="written over itself"):
        create(replace(_plan(tmp_path / "documents-000000.tar"), name="documents"), tmp_path, Execution())
    assert _contents(tmp_path) == before
