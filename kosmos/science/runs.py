"""A folder of runs: each is done once, goes on where it was killed, and is shared by commands that run side by side.

A run is a frozen dataclass with a `name` of its own; its folder holds `log.jsonl`, the step it can go on from and, when
it is finished, `result.json` with the run's values and its figures. Knows nothing of what a run does.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from kosmos.checkpoint import step_folders
from kosmos.training.run_log import read_log

__all__ = ["Figures", "Finished", "Run", "do_runs", "logged", "read_runs"]

RESULT = "result.json"
LOG = "log.jsonl"
Figures = Mapping[str, float | None]
"""What a run measured by name; None for what is not finite."""


class Run(Protocol):
    """One run as a plain value."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def name(self) -> str:
        """Of its folder, from the values that set it apart."""
        ...


RunT = TypeVar("RunT", bound=Run)


@dataclass(frozen=True)
class Finished(Generic[RunT]):
    """A run and its figures."""

    run: RunT
    figures: Figures


def do_runs(
    runs: Sequence[RunT],
    folder: Path,
    perform: Callable[[RunT, Path], Figures],
    told: Callable[[str], None] = lambda line: None,
) -> None:
    """Do what is not finished yet; a run that another command is doing is left to it.

    Raises: ValueError if the folder holds a run of the same name with other values.
    """
    for number, run in enumerate(runs, start=1):
        place = folder / run.name
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place) as free:
            if not free:
                told(f"{number}/{len(runs)} {run.name}: another command is at it")
            elif not _is_finished(run, place):
                told(f"{number}/{len(runs)} {run.name}")
                _keep(run, perform(run, place), place)


def read_runs(folder: Path, kind: type[RunT]) -> list[Finished[RunT]]:
    """All finished runs of `folder`, by name."""
    found = []
    for path in sorted(folder.glob(f"*/{RESULT}")):
        record = json.loads(path.read_text("utf-8"))
        found.append(Finished(kind(**record["run"]), record["figures"]))
    return found


def logged(folder: Path, name: str) -> list[float]:
    """One figure of every logged step; none of a run that has no log yet."""
    records = read_log(folder / LOG) if (folder / LOG).exists() else []
    return [float(str(record[name])) for record in records if name in record]


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody else does this run; the system takes the lock back however the process ends."""
    with (path / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _is_finished(run: Run, path: Path) -> bool:
    """Raises: ValueError if what was begun or finished here has other values."""
    values, begun = json.loads(json.dumps(dataclasses.asdict(run))), path / "run.json"
    if begun.exists():
        kept = json.loads(begun.read_text("utf-8"))
        if kept != values:
            differing = ", ".join(sorted(key for key in {*values, *kept} if values.get(key) != kept.get(key)))
            raise ValueError(f"{path} holds a run with another {differing}; give another folder by --output")
    else:
        _write(begun, values)
    return (path / RESULT).exists()


def _keep(run: Run, figures: Figures, place: Path) -> None:
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()}
    _write(place / RESULT, {"run": dataclasses.asdict(run), "figures": finite})
    for _, step in step_folders(place):
        shutil.rmtree(step)


def _write(path: Path, record: Mapping[str, object]) -> None:
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    unfinished.replace(path)
