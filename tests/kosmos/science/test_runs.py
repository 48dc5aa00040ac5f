"""A folder of runs: each done once, killed ones go on to the same numbers, other values are refused."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from kosmos.science import stability
from kosmos.science.language import byte_corpus
from kosmos.science.runs import Figures, do_runs, logged, read_runs
from kosmos.science.stability import StabilityRun

TINY = StabilityRun(norms="subln", num_layers=1, learning_rate=1e-3, seed=0, steps=6, width=8, sequences=2, length=16)


@dataclass(frozen=True)
class Guess:
    value: float

    @property
    def name(self) -> str:
        return "guess"


PROCESS = """
import functools, json, os, signal, sys
from pathlib import Path
from kosmos.science import stability
from kosmos.training.run_log import RunLog
data, folder, dies_at, values = sys.argv[1:]
write = RunLog.write
def write_or_die(self, record):
    if record["step"] == int(dies_at):
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, record)
RunLog.write = write_or_die
stability.LanguageRecipe = functools.partial(stability.LanguageRecipe, save_every=2)
stability.do([stability.StabilityRun(**json.loads(values))], Path(data), Path(folder), print)
"""


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    done: list[str] = []

    def perform(run: Guess, place: Path) -> Figures:
        done.append(run.name)
        return {"value": run.value}

    for _ in range(2):
        do_runs([Guess(2.0)], tmp_path, perform)
    assert done == ["guess"]
    assert [(one.run, one.figures) for one in read_runs(tmp_path, Guess)] == [(Guess(2.0), {"value": 2.0})]


def test_a_folder_refuses_a_run_of_other_values(tmp_path: Path) -> None:
    do_runs([Guess(2.0)], tmp_path, lambda run, place: {})
    with pytest.raises(ValueError, match="another value; give another folder"):
        do_runs([Guess(3.0)], tmp_path, lambda run, place: {})


def test_what_is_not_finite_is_kept_as_nothing(tmp_path: Path) -> None:
    do_runs([Guess(2.0)], tmp_path, lambda run, place: {"loss": float("nan"), "norm": float("inf")})
    assert json.loads((tmp_path / "guess" / "result.json").read_text())["figures"] == {"loss": None, "norm": None}


def test_a_run_that_another_command_does_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "guess").mkdir()
    told: list[str] = []
    with (tmp_path / "guess" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        do_runs([Guess(2.0)], tmp_path, lambda run, place: {}, told.append)
    assert told == ["1/1 guess: another command is at it"]
    assert not read_runs(tmp_path, Guess)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    whole, cut = (tmp_path / name / TINY.name for name in ("whole", "cut"))
    assert _in_a_process(data, whole.parent, dies_at=0).returncode == 0
    assert _in_a_process(data, cut.parent, dies_at=5).returncode == -signal.SIGKILL
    assert not (cut / "result.json").exists()
    assert len(logged(cut, "loss")) == 4
    assert _in_a_process(data, cut.parent, dies_at=0).returncode == 0
    assert (cut / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    losses = logged(cut, "loss")
    assert len(losses) == TINY.steps
    assert losses == logged(whole, "loss")


def _in_a_process(data: Path, folder: Path, *, dies_at: int) -> subprocess.CompletedProcess[str]:
    """Do `TINY`, saving every second step; the process kills itself when it would log step `dies_at`."""
    return subprocess.run(
        [sys.executable, "-c", PROCESS, str(data), str(folder), str(dies_at), json.dumps(asdict(TINY))],
        capture_output=True,
        text=True,
    )


def test_a_run_stops_at_the_first_loss_that_is_not_finite(data: Path, tmp_path: Path) -> None:
    wild = replace(TINY, norms="post", learning_rate=1e20)
    figures = stability.perform(wild, tmp_path / "wild", byte_corpus(data))
    steps = figures["steps_finite"]
    assert steps is not None
    assert steps < wild.steps
    assert figures["held_out"] is None
    assert stability.outcome(figures) == "diverged"
