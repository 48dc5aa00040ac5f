"""Work over shards: killed anywhere and run again, the bytes are those of a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_pipelines.execution import Execution, run_tasks
from data_pipelines.report import Report, Tally
from data_pipelines.whole_file import TEMPORARY
from tests.conftest import REPOSITORY
from tests.data_pipelines.copying import POINTS, REACHED, copies, copy_shard, run_copies, write_sources

TWO = Execution(workers=2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def undisturbed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Report]:
    out = tmp_path_factory.mktemp("undisturbed")
    report = run_copies(sources, out)
    return contents(out), report


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, markers included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of a shard that has its marker."""
    names = [marker.name.removesuffix(".done.json") for marker in out.glob(".kosmos/*.done.json")]
    paths = [path for name in names for path in (out / f"{name}.tar", out / f"{name}.tar.idx")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


@contextmanager
def stopped_job(sources: Path, out: Path, point: str, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process with two workers, one of which stands still at a point until it is killed."""
    command = [sys.executable, "-m", "tests.data_pipelines.copying", str(sources), str(out), point, str(number)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == REACHED
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "number"), [*zip(POINTS, (0, 2, 3, 1, 4), strict=True), ("half written", 5)])
def test_killed_and_run_again_gives_the_same_bytes(
    point: str, number: int, sources: Path, undisturbed: tuple[dict[str, bytes], Report], tmp_path: Path
) -> None:
    with stopped_job(sources, tmp_path, point, number):
        pass  # all its processes are killed
    before, kept = contents(tmp_path), finished(tmp_path)
    assert before != undisturbed[0] or point == "told"  # its workers may have gone on to the end
    assert any(name.endswith(TEMPORARY) for name in before) or point != "half written"
    assert len(kept) >= 2 * number or point != "told"
    heard: list[int] = []
    report = run_copies(sources, tmp_path, Execution(workers=2, told=lambda done, tasks, report: heard.append(done)))
    assert contents(tmp_path) == undisturbed[0]
    assert report == undisturbed[1]
    assert finished(tmp_path).items() >= kept.items()
    assert len(heard) == 6 - len(kept) // 2


def test_workers_end_with_a_killed_parent(sources: Path, tmp_path: Path) -> None:
    with stopped_job(sources, tmp_path, "half written", 2) as process:
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == b""  # ends when the last process that could write there has gone


def test_workers_do_not_change_bytes_or_sum(
    sources: Path, undisturbed: tuple[dict[str, bytes], Report], tmp_path: Path
) -> None:
    report = run_copies(sources, tmp_path, TWO)
    assert contents(tmp_path) == undisturbed[0]
    assert report == undisturbed[1]
    assert report.balanced
    assert report.dropped == {"ends in 7": 24}


def test_a_finished_job_is_only_added_up(sources: Path, tmp_path: Path) -> None:
    first = run_copies(sources, tmp_path)
    kept = finished(tmp_path)
    heard: list[int] = []
    again = run_copies(sources, tmp_path, Execution(told=lambda done, tasks, report: heard.append(done)))
    assert (again, finished(tmp_path), heard) == (first, kept, [])


def test_progress_is_told_task_by_task(sources: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int, int]] = []
    run_copies(sources, tmp_path, Execution(told=lambda done, tasks, report: heard.append((done, tasks, report.read))))
    assert heard == [(done, 6, 40 * done) for done in range(1, 7)]


def test_a_folder_of_another_job_is_refused(sources: Path, tmp_path: Path) -> None:
    run_copies(sources, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="another command or other options"):
        run_tasks(copy_shard, copies(sources, tmp_path), tmp_path, job={"sources": "elsewhere"})
    assert contents(tmp_path) == before


def test_a_torn_marker_counts_as_none(sources: Path, tmp_path: Path) -> None:
    first = run_copies(sources, tmp_path)
    marker = tmp_path / ".kosmos" / "source-002.done.json"
    whole = marker.read_bytes()
    for torn in (b"", whole[:-9], b"[]", b"{}", b'{"read": 1}'):
        marker.write_bytes(torn)
        assert run_copies(sources, tmp_path) == first
        assert marker.read_bytes() == whole


def test_names_that_look_alike_get_markers_of_their_own(tmp_path: Path) -> None:
    names = ("a/b", "a_b", "x" * 200, "x" * 201, "../up")
    ran: list[str] = []

    def run(name: str) -> Report:
        ran.append(name)
        return Report(read=1, written=1)

    for _ in range(2):
        assert run_tasks(run, {name: name for name in names}, tmp_path / "out", job={}).read == len(names)
    assert ran == list(names)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@dataclass(frozen=True)
class Waiting:
    """A task that waits for another one to be done before it is, through a named pipe; or ends badly."""

    key: str
    wait_for: Path | None = None
    tell: Path | None = None
    end: str = ""


def take_turns(task: Waiting) -> Report:
    if task.wait_for is not None:
        task.wait_for.read_bytes()
    if task.tell is not None:
        task.tell.write_bytes(b"done")
    if task.end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.end:
        raise OSError(task.end)
    tally = Tally()
    tally.read()
    tally.drop("seen", task.key)
    return tally.report()


def test_the_sum_is_in_the_order_of_names_whatever_ends_first(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    tasks: Mapping[str, Waiting] = {"a": Waiting("first", wait_for=pipe), "b": Waiting("second", tell=pipe)}
    report = run_tasks(take_turns, tasks, tmp_path / "out", job={}, execution=TWO)
    assert report.examples == {"seen": ("first", "second")}


@pytest.mark.parametrize(
    ("end", "words"), [("killed", "a worker process was killed .* run the same command again"), ("disk full", "disk")]
)
def test_a_task_that_fails_leaves_the_others_their_markers(end: str, words: str, tmp_path: Path) -> None:
    out, pipe = tmp_path / "out", tmp_path / "pipe"
    os.mkfifo(pipe)

    def named(end: str) -> dict[str, Waiting]:
        # `bad` cannot begin to fail before the last good one is nearly done.
        return {"a": Waiting("a"), "b": Waiting("b", tell=pipe), "bad": Waiting("bad", wait_for=pipe, end=end)}

    with pytest.raises(OSError, match=words):
        run_tasks(take_turns, named(end), out, job={}, execution=TWO)
    assert (out / ".kosmos" / "a.done.json").exists()
    assert not (out / ".kosmos" / "bad.done.json").exists()


def test_a_job_that_wrote_nothing_leaves_its_folder_free(sources: Path, tmp_path: Path) -> None:
    def fails(task: int) -> Report:
        raise ValueError(f"task {task}")

    with pytest.raises(ValueError, match="task 1"):
        run_tasks(fails, {"one": 1}, tmp_path, job={"of": "another"})
    assert run_copies(sources, tmp_path).read > 0


def test_a_file_is_no_folder_for_output(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("kept")
    with pytest.raises(ValueError, match="is a file, and the output needs a folder"):
        run_tasks(lambda task: Report(), {"one": 1}, tmp_path / "f", job={})
    assert (tmp_path / "f").read_text() == "kept"
