"""Broken shards repaired to the last document: in = out + quarantined, and what comes out is sound."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_pipelines.execution import Execution
from data_pipelines.lint import lint
from data_pipelines.repair import repair
from data_pipelines.report import Report
from data_pipelines.shard import Shard, read_documents
from data_pipelines.stores import expand
from data_pipelines.tar import END
from tests.data_pipelines.broken_shards import drawn, file, page, torture_folder
from text.document import Document

WRITTEN = {
    "contents.tar": ["c00", "c11"],
    "endless.tar": ["e1", "e2"],
    "good.tar": ["good-1", "good-2", "good-3"],
    "joined.tar": ["j1", "j2"],
    "keys.tar": ["k1", "k2", "k3", "k4"],
    "mismatch.tar": ["m1", "m2"],
    "names.tar": ["n1", "photo_1-e5a5555d"],
    "stale.tar": ["s1"],
    "torn.tar": ["t1", "t3", "t4", "t5", "t6", "t8"],
}
DROPPED = {
    "beside a tear": 1,
    "broken JSON": 1,
    "checksum mismatch": 1,
    "duplicate key": 2,
    "empty file": 1,
    "forbidden part": 1,
    "malformed phrases": 1,
    "malformed segments": 1,
    "missing image": 2,
    "no segments": 1,
    "part name is not portable": 1,
    "text is not UTF-8": 1,
    "undecodable image": 1,
    "unreferenced image": 1,
    "unsafe name": 1,
}
NOTED = {
    "bytes lost in tears": 2200 + 1024 + 1024 + 512 + 324,
    "file of no document left out": 3,
    "mended: key is not portable": 1,
    "mended: members not adjacent": 1,
    "tear: data after the end": 1,
    "tear: member name is not UTF-8": 1,
    "tear: no end of archive": 1,
    "tear: torn header": 4,
    "tear: truncated": 1,
}


@pytest.fixture
def torture(tmp_path: Path) -> Path:
    return torture_folder(tmp_path / "torture")


def repaired(source: Path, out: Path, *, workers: int = 1, decode: bool = True) -> Report:
    return repair(expand([str(source)]), out, root=source, decode=decode, execution=Execution(workers=workers))


def tree(folder: Path) -> Mapping[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".kosmos" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lines(out: Path, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "quarantine" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def test_every_document_is_accounted_for(torture: Path, tmp_path: Path) -> None:
    report = repaired(torture, tmp_path / "out")
    assert report.balanced
    assert (report.read, report.written) == (41, 24)
    assert dict(report.dropped) == DROPPED
    assert dict(report.noted) == NOTED
    keys = {path.name: [sample.key for sample in Shard(path)] for path in sorted((tmp_path / "out").glob("*.tar"))}
    assert keys == WRITTEN


def test_what_comes_out_is_sound(torture: Path, tmp_path: Path) -> None:
    repaired(torture, tmp_path / "out")
    found = list(lint(expand([str(tmp_path / "out")])))
    assert [finding for linted in found for finding in linted.findings] == []
    assert sum(linted.documents for linted in found) == 24
    for path in (tmp_path / "out").glob("*.tar"):
        assert all(isinstance(document, Document) for _, document in read_documents(str(path)))


def test_what_is_put_away_stands_in_the_quarantine(torture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    repaired(torture, out)
    documents = [line for path in out.glob("quarantine/*.jsonl") for line in lines(out, path.stem) if "saved" in line]
    assert len(documents) == sum(DROPPED.values())
    saved = 0
    for path in out.glob("quarantine/*.quarantined"):
        with tarfile.open(path) as tar:
            saved += len({name.partition(".")[0] for name in tar.getnames()})
            assert all(name[:6].isdigit() and name[6] == "." for name in tar.getnames())
    assert saved == len(documents)


def test_a_quarantined_pickle_is_saved_under_a_name_nothing_unpickles(torture: Path, tmp_path: Path) -> None:
    repaired(torture, tmp_path / "out")
    (line,) = [line for line in lines(tmp_path / "out", "names") if line["key"] == "n2"]
    assert line["reason"] == "forbidden part"
    assert line["files"] == ["n2.json", "n2.pkl"]
    assert line["saved"] == ["000001.json", "000001.pkl.refused"]


def test_the_bytes_of_every_tear_are_told(torture: Path, tmp_path: Path) -> None:
    repaired(torture, tmp_path / "out")
    tears = [(line["offset"], line["bytes_lost"]) for line in lines(tmp_path / "out", "torn") if "bytes_lost" in line]
    assert tears == [(1024, 1024), (3996, 0), (7580, 1024), (9628, 512), (11164, 324)]
    assert [line["bytes_lost"] for line in lines(tmp_path / "out", "garbage")] == [2200]


def test_a_document_that_is_renamed_keeps_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "s.tar").write_bytes(page("a b", drawn()) + END)
    assert repaired(tmp_path / "in", tmp_path / "out").written == 1
    ((key, document),) = read_documents(str(tmp_path / "out" / "s.tar"))
    assert key.startswith("a_b-")
    assert isinstance(document, Document)
    assert [image.source for image in document.images] == [drawn()]


def test_what_cannot_be_renamed_is_put_away(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    unknown = file("a b.json", '{"segments": [{"image": "a b.0.png"}]}') + file("a b.0.png", b"of no known format")
    (tmp_path / "in" / "s.tar").write_bytes(unknown + page("c") + END)
    report = repaired(tmp_path / "in", tmp_path / "out", decode=False)
    assert dict(report.dropped) == {"picture of an unknown format": 1}
    assert (report.read, report.written) == (2, 1)


def test_standard_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="standard input can be read once"):
        repair(["-"], tmp_path / "out")


def test_sound_documents_keep_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sound = page("a", drawn()) + file("b.jpg", drawn(form="JPEG")) + file("b.txt", "words") + END
    (tmp_path / "in" / "s.tar").write_bytes(sound)
    repaired(tmp_path / "in", tmp_path / "out")
    assert sorted(tree(tmp_path / "out")) == ["s.tar", "s.tar.idx"]
    assert (tmp_path / "out" / "s.tar").read_bytes() == sound


def test_without_decoding_a_damaged_picture_stays(torture: Path, tmp_path: Path) -> None:
    report = repaired(torture, tmp_path / "out", decode=False)
    assert report.written == 25
    assert "undecodable image" not in report.dropped


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(torture: Path, tmp_path: Path) -> None:
    one = repaired(torture, tmp_path / "one")
    two = repaired(torture, tmp_path / "two", workers=2)
    assert one == two
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_second_run_leaves_finished_shards_alone(torture: Path, tmp_path: Path) -> None:
    first = repaired(torture, tmp_path / "out")
    marked = (tmp_path / "out" / "good.tar").stat().st_mtime_ns
    assert repaired(torture, tmp_path / "out") == first
    assert (tmp_path / "out" / "good.tar").stat().st_mtime_ns == marked


@pytest.mark.slow
@pytest.mark.parametrize("syncs", [1, 3, 6, 11, 20])
def test_killed_anywhere_a_second_run_writes_the_same_bytes(torture: Path, tmp_path: Path, syncs: int) -> None:
    repaired(torture, tmp_path / "whole")
    code = (
        "import os, signal, sys\nfrom kosmos.cli.main import main\nleft, sync = [int(sys.argv[3])], os.fsync\n"
        "def deadly(file):\n"
        "    left[0] -= 1\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if not left[0] else sync(file)\n"
        "os.fsync = deadly\nmain(['data', 'repair', sys.argv[1], sys.argv[2]])\n"
    )
    command = [sys.executable, "-c", code, str(torture), str(tmp_path / "killed"), str(syncs)]
    done = subprocess.run(command, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    repaired(torture, tmp_path / "killed")
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_shards_keep_their_places_below_the_folder(tmp_path: Path) -> None:
    for place in ("in/a", "in/b"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "s.tar").write_bytes(page(place[-1]) + END)
    repaired(tmp_path / "in", tmp_path / "out")
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/**/*.tar")) == [
        "a/s.tar",
        "b/s.tar",
    ]
    with pytest.raises(ValueError, match=r"several shards are called s\.tar"):
        repair(expand([str(tmp_path / "in")]), tmp_path / "flat")


def test_a_shard_is_never_written_over_itself(torture: Path) -> None:
    before = tree(torture)
    with pytest.raises(ValueError, match="written over itself"):
        repaired(torture, torture)
    assert tree(torture) == before
