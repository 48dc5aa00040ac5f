"""`log.jsonl` of a run: one object a line, whole at any moment; trackers hear of every line.

A line torn by a kill is dropped when the run goes on, and so are lines of steps that will be done again. JSON has no
NaN: such figures are `null`, and `not_finite` of the line counts them.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path

from data_pipelines.whole_file import whole_file
from kosmos.training.figure_names import SAMPLES, WHERE, group_of
from kosmos.training.trackers import Tracker

__all__ = ["LOG", "Record", "RunLog", "place_of", "read_log"]

log = logging.getLogger(__name__)

LOG = "log.jsonl"
Record = dict[str, object]
FLOAT32_DIGITS = 9  # decimals that tell any two float32 apart, so that equal lines are equal losses
MEASURED_DIGITS = 5  # of times and rates


class RunLog:
    """Appends to a run's log; one process of a run does.

    Attributes:
        path: of the log.
        not_finite: how often each figure was NaN or infinite since this log was opened.
    """

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = ()) -> None:
        """
        Raises: OSError; ValueError for a log with a broken line that is not its last.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOG
        self.not_finite: Counter[str] = Counter()
        self._trackers = list(trackers)
        self._ends: Counter[int] = Counter()  # last step of each stage
        if self.path.exists():
            _drop_torn_line(self.path)
            for record in read_log(self.path):
                self._note(record)

    def write(self, record: Mapping[str, object]) -> None:
        """Append one line and tell the trackers.

        Args:
            record: `stage`, `stage_number`, `step`, and figures; or under `samples` words by name.
        Raises: OSError; TypeError for a value that JSON does not know; ValueError for a place that is no whole number.
        """
        faults: list[str] = []
        plain = {name: _plain(value, name, faults) for name, value in record.items()}
        if faults:
            self.not_finite.update(faults)
            plain["not_finite"] = len(faults)
        self._note(plain)
        with self.path.open("ab") as lines:
            lines.write(json.dumps(plain, allow_nan=False).encode() + b"\n")
        self._show(plain)

    def cut(self, stage: int, step: int) -> None:
        """Drop lines of steps that will be done again: `step` steps of stage number `stage` are kept."""
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if place_of(json.loads(line)) <= (stage, step)]
            if len(kept) < len(lines):
                with whole_file(self.path) as file:
                    file.writelines(kept)
            self._ends.clear()
            for line in kept:
                self._note(json.loads(line))
        first = self._through_all(stage, step) + 1
        self._each(lambda tracker: tracker.begin(first))

    def close(self) -> None:
        """Close the trackers."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _note(self, record: Mapping[str, object]) -> None:
        stage, step = place_of(record)
        self._ends[stage] = max(self._ends[stage], step)

    def _through_all(self, stage: int, step: int) -> int:
        """A step counted through the stages before its own, each of which ends with a line."""
        return step + sum(end for number, end in self._ends.items() if number < stage)

    def _show(self, record: Mapping[str, object]) -> None:
        """Hand a line on to the trackers."""
        step = self._through_all(*place_of(record))
        figures = {
            name: float(value)
            for name, value in record.items()
            if name not in WHERE and isinstance(value, int | float) and not isinstance(value, bool)
        }
        samples = record.get(SAMPLES)
        texts = [(str(name), str(words)) for name, words in samples.items()] if isinstance(samples, Mapping) else []

        def show(tracker: Tracker) -> None:
            if figures:
                tracker.log(step, figures)
            for name, words in texts:
                tracker.text(step, name, words)

        self._each(show)

    def _each(self, told: Callable[[Tracker], None]) -> None:
        """A tracker that fails is left out from then on: the run is worth more than a view of it."""
        for tracker in list(self._trackers):
            try:
                told(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                log.warning("tracker %s failed and hears no more of this run: %s", type(tracker).__name__, error)


def read_log(path: Path) -> list[Record]:
    """The records of a log, also of one that is being written: an unfinished last line is left out.

    Raises: OSError; ValueError that names a broken line.
    """
    records = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
        except ValueError:
            if not any(lines[number:]):
                break
            raise ValueError(f"{path}:{number} is no JSON object: {line[:80]!r}; mend or delete that line") from None
        records.append(record)
    return records


def place_of(record: Mapping[str, object]) -> tuple[int, int]:
    """Stage number and step of a record.

    Raises: ValueError if they are no whole numbers.
    """
    stage, step = (record.get(name, 0) for name in ("stage_number", "step"))
    if not (isinstance(stage, int) and isinstance(step, int)):
        raise ValueError(f"stage_number={stage!r}, step={step!r} in a record of a log; give whole numbers")
    return stage, step


def _drop_torn_line(path: Path) -> None:
    """Cut the log behind its last whole line."""
    written = path.read_bytes()
    lines = written.splitlines(keepends=True)
    while lines and not _is_whole(lines[-1]):
        lines.pop()
    whole = sum(len(line) for line in lines)
    if whole < len(written):
        log.warning("dropped the unfinished end of %s: %d bytes", path, len(written) - whole)
        os.truncate(path, whole)


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _plain(value: object, name: str, faults: list[str]) -> object:
    """What JSON can hold; figures that are not finite are named in `faults`."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value):
            faults.append(name)
            return None
        digits = MEASURED_DIGITS if group_of(name) == "speed" else FLOAT32_DIGITS
        return float(f"{float(value):.{digits}g}")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, name, faults) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(inner, name, faults) for inner in value]
    raise TypeError(f"{name} of a record is {type(value).__name__}; a log holds numbers, words and lists of them")
