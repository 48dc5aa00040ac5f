"""A run on disk: one folder a step, each written beside the others and given its name when all of it is there.

    step-000100/   a checkpoint that everything else opens, with state/ and state.json to go on from (`training_state`)
    step-000200/   ...
    .step-000300.partial/   being written; what a killed run left of such is removed when the next one begins

Every process of a run makes a RunFolder and calls it alike; the first one makes, names and removes folders. A step is
written by another thread while training goes on, one at a time. Knows nothing of what is trained.
"""

from __future__ import annotations

import fcntl
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from errno import EACCES, EAGAIN
from functools import partial
from pathlib import Path
from typing import IO, TypeVar, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from kosmos.checkpoint import step_folders
from kosmos.training.recipe import SaveRecipe
from kosmos.training.training_state import (
    VALUES,
    begin_save,
    cause,
    check_state,
    plain_text,
    read_plain,
    read_tensors,
    write_index,
)
from kosmos.weight_files import publish_folder

__all__ = ["RunFolder"]

log = logging.getLogger(__name__)

LEFT_BEHIND = re.compile(r"\.step-[0-9]{1,12}\.(partial|old)(\.old)?")
LOCK = ".lock"
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Flight:
    """A step that is being written."""

    step: int
    temporary: Path
    written: Future[object]


class RunFolder:
    """Steps of one run.

    Attributes:
        path: of the run.
    """

    def __init__(self, path: Path, save: SaveRecipe) -> None:
        """Make the folder, or take over one from an earlier run, whose unfinished steps are removed.

        Raises: OSError if it cannot be written; ValueError if another run is writing to it.
        """
        self.path, self._recipe = path, save
        together = dist.is_available() and dist.is_initialized()
        # A group of its own: messages of the writing thread must not mix with those of a step.
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if together else None
        self._first = self._group is None or dist.get_rank() == 0
        self._stager = _pinned() if torch.cuda.is_available() else None
        self._flight: _Flight | None = None
        self._lock: IO[bytes] | None = None
        self._on_first(self._open)

    def newest(self) -> int | None:
        """The highest step with a whole state; None where there is none. Steps passed over are logged."""
        return self._on_first(partial(_newest, self.path))

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        plain: Mapping[str, object],
        *,
        write_model: Callable[[Path], None] | None = None,
    ) -> None:
        """Begin to write a step; returns when `tensors` and `plain` may change again.

        Args:
            tensors: all that is to be restored, by name; DTensors and tensors that are equal on all processes.
            plain: JSON values, those of the first process.
            write_model: fills an empty folder with a checkpoint. Called on the first process, later and from another
                thread, so what it writes must be its own copy.
        Raises: what `wait` raises for the step before; OSError; ValueError for values that are not plain.
        """
        self.wait()
        temporary = self.path / f".{_name(step)}.partial"
        try:
            self._on_first(partial(_prepare, temporary, plain))
        except OSError as error:
            raise self._failure(step, error) from error
        finish = partial(self._publish, step, temporary, write_model)
        written = begin_save(temporary, tensors, finish, group=self._group, stager=self._stager)
        self._flight = _Flight(step, temporary, written)

    def plain(self, step: int) -> dict[str, object]:
        """The plain values of a step. Raises: ValueError if it has none."""
        return read_plain(self.path / _name(step))

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> dict[str, object]:
        """Fill `tensors` in place with those of a step, whichever number of processes wrote it; returns `plain`.

        Raises: ValueError if the step is damaged or its tensors are not of these names, shapes and dtypes.
        """
        read_tensors(self.path / _name(step), tensors, group=self._group)
        return self.plain(step)

    def poll(self) -> None:
        """Raise what `wait` would if the step being written has failed; costs nothing and waits for nobody."""
        if self._flight is not None and self._flight.written.done():
            self.wait()

    def wait(self) -> None:
        """Until no step is being written.

        Raises: OSError that names the folder and the cause if it could not be; steps before it are as they were.
        """
        if self._flight is None:
            return
        error, flight = self._flight.written.exception(), self._flight
        self._flight = None
        if error is not None:
            if self._first:
                shutil.rmtree(flight.temporary, ignore_errors=True)
            raise self._failure(flight.step, cause(error)) from cause(error)

    def close(self) -> None:
        """Wait, then let another run use the folder. Raises: what `wait` raises."""
        try:
            self.wait()
        finally:
            if self._stager is not None:
                self._stager.close()
            if self._lock is not None:
                self._lock.close()

    def _open(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / LOCK).open("wb")
        try:
            # Of the process, not of the file: gone when it is killed, and not passed on to workers it forks.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (EACCES, EAGAIN):
                message = f"{self.path}: another run is writing here; let it end, or give another folder"
                raise ValueError(message) from None
            log.warning("folder=%s cannot be locked (%s); start one run in it at a time", self.path, error.strerror)
        for path in self.path.glob(".*"):
            if LEFT_BEHIND.fullmatch(path.name):
                log.info("removed what an ended run left: %s", path)
                shutil.rmtree(path, ignore_errors=True)

    def _publish(
        self, step: int, temporary: Path, write_model: Callable[[Path], None] | None, shards: Mapping[str, int]
    ) -> None:
        """On the first process, when all have written."""
        if write_model is not None:
            model = temporary / "model"
            model.mkdir()
            write_model(model)
            for path in model.iterdir():
                path.rename(temporary / path.name)
            model.rmdir()
        write_index(temporary, shards)
        publish_folder(temporary, self.path / _name(step))
        shutil.rmtree(temporary, ignore_errors=True)  # the damaged step whose name it took
        self._prune(step)

    def _prune(self, newest: int) -> None:
        """Keep the newest whole steps and those kept for good. Steps after `newest` are no part of this run yet."""
        steps = [(step, path) for step, path in step_folders(self.path) if step <= newest]
        whole = [step for step, path in steps if _is_whole(path)]
        every = self._recipe.keep_every
        for step, path in steps:
            if step not in whole[: self._recipe.keep] and not (every and step % every == 0):
                _remove(path)

    def _failure(self, step: int, error: BaseException) -> Exception:
        last = _newest(self.path) if self.path.is_dir() else None
        message = (
            f"{self.path}: step {step} could not be saved ({_reason(error)});"
            f" {'no step is whole yet' if last is None else f'{_name(last)} is whole'}, and the same command goes on"
            " from there when that is mended"
        )
        if isinstance(error, OSError | SafetensorError):
            return OSError(message)
        return ValueError(message) if isinstance(error, ValueError) else RuntimeError(message)

    def _on_first(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises on the first process, on all of them."""
        outcome: list[tuple[Result | None, Exception | None]] = [(None, None)]
        if self._first:
            try:
                outcome = [(work(), None)]
            except (OSError, ValueError) as error:
                outcome = [(None, error)]
        if self._group is not None:
            dist.broadcast_object_list(outcome, src=0, group=self._group)
        result, failed = outcome[0]
        if failed is not None:
            raise failed
        return cast(Result, result)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _newest(path: Path) -> int | None:
    for step, folder in step_folders(path):
        try:
            check_state(folder)
        except (ValueError, OSError) as error:
            log.warning("passed over a step that cannot be resumed: %s", error)
            continue
        return step
    return None


def _is_whole(folder: Path) -> bool:
    try:
        check_state(folder)
    except (ValueError, OSError):
        return False
    return True


def _prepare(temporary: Path, plain: Mapping[str, object]) -> None:
    text = plain_text(plain)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    (temporary / VALUES).write_text(text, "utf-8")


def _remove(path: Path) -> None:
    """Under a hidden name first: half a step must not look like one."""
    hidden = path.with_name(f".{path.name}.old")
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        log.warning("could not remove %s: %s", path, error)


def _pinned() -> DefaultStager:
    """Pinned memory, taken once and kept, to which a GPU copies without its host."""
    return DefaultStager(StagingOptions(use_shared_memory=False, use_async_staging=False))
