"""A step is there whole or not at all: whenever a run is killed, whatever its disk does, the last good one stays."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kosmos.checkpoint import newest_step
from kosmos.pretrained import load
from kosmos.training import run_folder
from kosmos.training.recipe import SaveRecipe
from kosmos.training.run_folder import RunFolder
from tests.models import small_kosmos
from text.tokenizer import Tokenizer

FORK = multiprocessing.get_context("fork")
EACH_STEP = SaveRecipe(every=1, keep=2, keep_every=3)


def state(step: int) -> dict[str, Tensor]:
    return {"weights.a": torch.full((3, 5), float(step)), "optimiser.step": torch.tensor(float(step))}


def write_note(folder: Path) -> None:
    (folder / "note.txt").write_text("a model")


def save(folder: RunFolder, step: int) -> None:
    folder.save(step, state(step), {"step": step}, write_model=write_note)
    folder.wait()


def holds(folder: RunFolder, step: int) -> bool:
    """Whether a step gives back what was saved as it."""
    found = {name: torch.zeros_like(tensor) for name, tensor in state(step).items()}
    plain = folder.load(step, found)
    return plain == {"step": step} and all(torch.equal(found[name], state(step)[name]) for name in found)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name != ".lock")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with closing(RunFolder(tmp_path / "run", EACH_STEP)) as folder:
        yield folder


# ---- steps ----


def test_a_new_run_has_no_step(folder: RunFolder) -> None:
    assert folder.newest() is None
    assert names(folder.path) == []


def test_a_saved_step_is_the_newest_and_gives_back_what_it_was_given(folder: RunFolder) -> None:
    for step in (1, 2):
        save(folder, step)
        assert folder.newest() == step
    assert holds(folder, 1)
    assert holds(folder, 2)
    assert folder.plain(2) == {"step": 2}
    assert names(folder.path / "step-000002") == ["note.txt", "state", "state.json"]


def test_the_newest_stay_and_some_for_good(folder: RunFolder) -> None:
    for step in range(1, 9):
        save(folder, step)
    assert names(folder.path) == ["step-000003", "step-000006", "step-000007", "step-000008"]


def test_a_damaged_step_is_passed_over_and_made_again(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        save(folder, step)
    shard = next((folder.path / "step-000002" / "state").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert folder.newest() == 1
    assert "passed over" in caplog.text
    assert "step-000002" in caplog.text
    save(folder, 2)
    assert holds(folder, 2)
    assert names(folder.path) == ["step-000001", "step-000002"]


def test_damaged_steps_do_not_count_among_those_that_stay(folder: RunFolder) -> None:
    for step in (1, 2):
        save(folder, step)
    (folder.path / "step-000002" / "state.json").unlink()
    save(folder, 4)
    assert names(folder.path) == ["step-000001", "step-000004"]
    assert holds(folder, 1)


@pytest.mark.slow
def test_a_run_folder_opens_as_a_model(small_tokenizer: Tokenizer, folder: RunFolder) -> None:
    for step in (1, 2):
        model = small_kosmos(small_tokenizer, seed=step)
        folder.save(step, state(step), {}, write_model=model.save)
    folder.wait()
    opened = load(folder.path, dtype="float32")
    assert newest_step(folder.path) == folder.path / "step-000002"
    ours, theirs = model.network.state_dict(), opened.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert opened.generate(["a man"], max_new_tokens=4)[0].ids == model.generate(["a man"], max_new_tokens=4)[0].ids


def test_values_that_are_not_plain_are_refused_before_anything_is_written(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="lanes is a set"):
        folder.save(1, state(1), {"lanes": {1}}, write_model=None)
    assert names(folder.path) == []


def test_no_step_begins_while_another_is_written(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begin, begun = threading.Event(), run_folder.begin_save, []

    def watched(*arguments: Any, **options: Any) -> Any:
        assert all(earlier.done() for earlier in begun)
        begun.append(begin(*arguments, **options))
        return begun[-1]

    monkeypatch.setattr(run_folder, "begin_save", watched)
    folder.save(1, state(1), {"step": 1}, write_model=lambda path: go.wait() and None)
    assert not begun[0].done()
    assert names(folder.path) == [".step-000001.partial"]
    threading.Timer(0.1, go.set).start()
    save(folder, 2)
    assert holds(folder, 1)
    assert holds(folder, 2)


def test_two_runs_do_not_write_to_one_folder(folder: RunFolder) -> None:
    ours, theirs = FORK.Pipe()
    other = FORK.Process(target=_try_to_open, args=(folder.path, theirs))
    other.start()
    assert "another run is writing here" in ours.recv()
    other.join()


def _try_to_open(path: Path, answer: Connection) -> None:
    try:
        RunFolder(path, EACH_STEP)
        answer.send("opened")
    except ValueError as error:
        answer.send(str(error))


# ---- killed ----


def _killed_at(number: int) -> None:
    """From now on this process dies, as by kill -9, at its `number`-th call that changes the disk or syncs it."""
    calls = itertools.count(1)

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    for name in ("fsync", "mkdir", "rename", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))


def _session(path: Path, step: int, dies_at: int | None) -> None:
    if dies_at is not None:
        _killed_at(dies_at)
    with closing(RunFolder(path, EACH_STEP)) as folder:
        save(folder, step)


def _run(path: Path, step: int, dies_at: int | None) -> bool:
    """A run of one step in a process of its own. Returns: whether it came to its end."""
    process = FORK.Process(target=_session, args=(path, step, dies_at))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.none() | st.integers(1, 40), min_size=1, max_size=6))
def test_whenever_runs_are_killed_the_newest_step_is_whole(deaths: list[int | None]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path, newest, written = Path(scratch) / "run", None, set()
        for step, dies_at in enumerate(deaths, start=1):
            ended = _run(path, step, dies_at)
            with closing(RunFolder(path, EACH_STEP)) as folder:
                found = folder.newest()
                assert found == step if ended else found in (newest, step)
                newest = found
                written |= {found} - {None}
                there = {int(name.removeprefix("step-")) for name in names(path)}  # nothing hidden is left either
                kept = {one for one in written if one in sorted(written)[-2:] or one % 3 == 0}
                assert there == kept if ended else there >= kept
                assert all(holds(folder, one) for one in there)


CHILD = """
import sys, threading, torch
from pathlib import Path
from kosmos.training.recipe import SaveRecipe
from kosmos.training.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), SaveRecipe(every=1))
def tensors(step): return {"weights.a": torch.full((3, 5), float(step)), "optimiser.step": torch.tensor(float(step))}
def stall(path):
    (path / "model.safetensors").write_bytes(b"half")
    print("writing", flush=True)
    threading.Event().wait()
folder.save(1, tensors(1), {"step": 1})
folder.save(2, tensors(2), {"step": 2}, write_model=stall)
folder.wait()
"""


@pytest.mark.slow
def test_a_run_killed_while_it_writes_goes_on_from_the_step_before(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        child.kill()
    assert names(path) == [".step-000002.partial", "step-000001"]
    assert newest_is_no_model(path)
    with closing(RunFolder(path, EACH_STEP)) as folder:
        assert names(path) == ["step-000001"]
        assert folder.newest() == 1
        assert holds(folder, 1)
        save(folder, 2)
        assert holds(folder, 2)


def newest_is_no_model(path: Path) -> bool:
    """Whether half a model is taken for none."""
    with pytest.raises(ValueError, match="no whole checkpoint"):
        newest_step(path)
    return True


# ---- a disk that fails ----


def poll_for_ever(folder: RunFolder) -> None:
    """As a loop does after each step."""
    while True:
        folder.poll()


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """As on a full disk: a longer file of this process cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def large(step: int) -> dict[str, Tensor]:
    return {"weights.a": torch.full((2**16,), float(step))}


def test_a_write_that_fails_leaves_the_last_good_step_and_says_so_at_the_next(folder: RunFolder) -> None:
    save(folder, 1)
    with files_up_to(2**16):
        folder.save(2, large(2), {"step": 2})
        with pytest.raises(OSError, match=r"step 2 could not be saved \(File too large\); step-000001 is w") as raised:
            poll_for_ever(folder)
    assert str(folder.path) in str(raised.value)
    assert names(folder.path) == ["step-000001"]
    assert folder.newest() == 1
    assert holds(folder, 1)
    folder.poll()  # told once
    save(folder, 2)
    assert holds(folder, 2)


def test_a_failure_is_raised_by_the_next_save_too(folder: RunFolder) -> None:
    with files_up_to(2**16):
        folder.save(1, large(1), {"step": 1})
        with pytest.raises(OSError, match=r"step 1 could not be saved .*; no step is whole yet"):
            folder.save(2, large(2), {"step": 2})
    assert names(folder.path) == []


def test_a_model_that_cannot_be_written_fails_the_step(small_tokenizer: Tokenizer, folder: RunFolder) -> None:
    save(folder, 1)
    with files_up_to(2**16):
        folder.save(2, state(2), {"step": 2}, write_model=small_kosmos(small_tokenizer).save)
        with pytest.raises(OSError, match=r"step 2 could not be saved \(.*File too large.*step-000001 is whole"):
            folder.wait()
    assert names(folder.path) == ["step-000001"]


def test_a_folder_that_vanished_is_named(folder: RunFolder) -> None:
    save(folder, 1)
    folder.path.rename(folder.path.with_name("elsewhere"))
    with pytest.raises(OSError, match=r"step 2 could not be saved \(No such file or directory") as raised:
        save(folder, 2)
    assert str(folder.path) in str(raised.value)
    assert not folder.path.exists()


def test_a_folder_that_vanishes_while_a_step_is_written_is_named(folder: RunFolder) -> None:
    def vanish(path: Path) -> None:
        folder.path.rename(folder.path.with_name("elsewhere"))

    folder.save(1, state(1), {"step": 1}, write_model=vanish)
    with pytest.raises(OSError, match=r"step 1 could not be saved \(No such file or directory"):
        folder.wait()


def test_a_fault_of_the_program_is_no_fault_of_the_disk(folder: RunFolder) -> None:
    def fault(path: Path) -> None:
        raise KeyError("heads")

    folder.save(1, state(1), {"step": 1}, write_model=fault)
    with pytest.raises(RuntimeError, match="step 1 could not be saved") as raised:
        folder.wait()
    assert isinstance(raised.value.__cause__, KeyError)
