"""The training loop: stages of steps, a log, checkpoints to resume from, validation with the averaged weights.

Knows nothing of Kosmos: a stage turns a batch into parts, each with named sums. Dropout and samples of a step follow
from seed, stage, step and rank, and the batches' own place is saved with the weights: a run killed at any moment and
started again ends with the same numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias  # Any: the loop hands batches on and never looks into them

import torch

from kosmos.training.batches import Batches
from kosmos.training.distributed import add_over_ranks
from kosmos.training.learner import Learner
from kosmos.training.objective import Part
from kosmos.training.recipe import OptimiserRecipe
from kosmos.training.run_folder import RunFolder
from kosmos.training.run_log import RunLog

__all__ = ["Figures", "ModelWriter", "Progress", "Run", "Stage", "train"]

log = logging.getLogger(__name__)

SEEDS = 1 << 63  # that torch takes

Figures: TypeAlias = dict[str, float]
Progress: TypeAlias = Callable[[str, int, int, Mapping[str, float]], None]
"""Told of (stage, step, steps, figures) after every step of the first rank."""
ModelWriter: TypeAlias = Callable[[], Callable[[Path], None] | None]
"""Gathers the model as it is now, on all ranks; the first gets what writes it into a folder, later."""


def _nothing(batches: Sequence[Any], seconds: float) -> Figures:
    return {}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training with one objective.

    Attributes:
        batches: this rank's share of the data.   micro_batches: of them that make a step.
        parts: of (batch, step): this rank's work; as many parts on every rank.
        validate: of (rank, ranks): figures of the averaged weights, equal on every rank.
        measure: of (a step's batches, its seconds): figures of speed.
    """

    name: str
    optimiser: OptimiserRecipe
    batches: Batches
    parts: Callable[[Any, int], Sequence[Part]]
    validate: Callable[[int, int], Figures]
    validate_every: int
    log_every: int
    save_every: int
    micro_batches: int = 1
    measure: Callable[[Sequence[Any], float], Figures] = _nothing


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run keeps itself and who hears of it.

    Attributes:
        log: None on ranks that write none.
        write_model: for checkpoints that others can open; None saves the state of training alone.
        stopped: whether this process was asked to end; asked after each step.
        samples: words the averaged model writes, by name, after a validation; all ranks are asked, the first is logged.
        validated: called on the first rank after a validation was logged.
    """

    folder: RunFolder
    log: RunLog | None
    seed: int
    progress: Progress | None = None
    write_model: ModelWriter | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)
    samples: Callable[[], Mapping[str, str]] | None = None
    validated: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class _Place:
    """Where a run is: the next step to do is `step` of stage number `stage`."""

    stage: int
    step: int


def train(learner: Learner, stages: Sequence[Stage], run: Run) -> bool:
    """Run all stages, going on where the folder left off.

    Returns: whether it came to its end; False if it was asked to stop, with everything saved.
    Raises: Diverged; ValueError, OSError for a state that does not fit and a folder that cannot be written.
    """
    place = _restore(learner, stages, run)
    if run.log is not None:
        run.log.cut(place.stage, place.step)
    for number in range(place.stage, len(stages)):
        first = place.step if number == place.stage else 0
        if first == 0:
            learner.begin(stages[number].optimiser)
        if not _Stretch(learner, stages, number, run).go(first):
            run.folder.wait()
            return False
    run.folder.wait()
    return True


@dataclass(frozen=True)
class _Stretch:
    """One stage of a run."""

    learner: Learner
    stages: Sequence[Stage]
    number: int
    run: Run

    @property
    def stage(self) -> Stage:
        return self.stages[self.number]

    def go(self, first: int) -> bool:
        """From step `first` to the end. Returns: False if it was stopped before."""
        stage, run = self.stage, self.run
        batches = iter(stage.batches)
        for step in range(first, stage.optimiser.steps):
            begun = time.perf_counter()
            figures = self._step(batches, step, begun)
            done, last = step + 1, step + 1 == stage.optimiser.steps
            validates = done % stage.validate_every == 0 or last
            samples = self._validate(figures) if validates else {}
            seconds = time.perf_counter() - begun
            self._tell(done, figures, samples, seconds, logged=validates or done % stage.log_every == 0)
            stopped = self._asked_to_stop()
            # While steps are passed over, the weights may be those that broke: they must not push out older ones.
            if last or stopped or (done % stage.save_every == 0 and not self.learner.in_a_row):
                self._save(done, last=last)
            run.folder.poll()
            if stopped and not (last and self.number + 1 == len(self.stages)):
                return False
        return True

    def _step(self, batches: Iterator[Any], step: int, begun: float) -> Figures:
        stage, learner, parallel = self.stage, self.learner, self.learner.parallel
        taken = list(islice(batches, stage.micro_batches))
        # Ranks that share the same rows share their dropout too, so the seed follows from the share of the batches.
        seed = ((self.run.seed * 10 + self.number) * 10_000_000 + step) * 4096 + parallel.rank
        torch.manual_seed(seed % SEEDS)
        learner.module.train()
        figures = learner.step(step, [part for batch in taken for part in stage.parts(batch, step)])
        return figures | stage.measure(taken, time.perf_counter() - begun)

    def _validate(self, figures: Figures) -> Mapping[str, str]:
        """Add what the averaged weights reach to `figures`. Returns: what they write."""
        with self.learner.averaged():
            figures |= self.stage.validate(self.learner.parallel.rank, self.learner.parallel.ranks)
            return self.run.samples() if self.run.samples is not None else {}

    def _tell(self, done: int, figures: Figures, samples: Mapping[str, str], seconds: float, *, logged: bool) -> None:
        run, stage = self.run, self.stage
        if run.progress is not None and self.learner.parallel.first:
            run.progress(stage.name, done, stage.optimiser.steps, figures)
        if run.log is None or not logged:
            return
        place = {"stage": stage.name, "stage_number": self.number, "step": done}
        run.log.write({**place, **figures, "seconds": seconds, **({"samples": dict(samples)} if samples else {})})
        if any(name.startswith("validation") for name in figures):
            run.validated()

    def _asked_to_stop(self) -> bool:
        """Whether any process was, also one that shares its rows with others: all must save the same step."""
        asked = torch.tensor([float(self.run.stopped())])
        add_over_ranks([asked])
        return bool(asked > 0)

    def _save(self, done: int, *, last: bool) -> None:
        stage, learner = self.stage, self.learner
        states = learner.parallel.gathered(stage.batches.state_dict())
        place = _Place(self.number + 1, 0) if last else _Place(self.number, done)
        plain = {
            "stage": place.stage,
            "step": place.step,
            "memory": learner.memory(),
            "batches": {} if last else stage.batches.merge(states),
        }
        with learner.averaged():
            writer = self.run.write_model() if self.run.write_model is not None else None
        before = sum(earlier.optimiser.steps for earlier in self.stages[: self.number])
        self.run.folder.save(before + done, learner.tensors(), plain, write_model=writer)


def _restore(learner: Learner, stages: Sequence[Stage], run: Run) -> _Place:
    """Take over the newest state of the run's folder."""
    newest = run.folder.newest()
    if newest is None:
        return _Place(0, 0)
    plain = run.folder.plain(newest)
    place = _Place(int(str(plain["stage"])), int(str(plain["step"])))
    # The tensors are of the stage that was going on, or of the one that ended with this state.
    learner.begin(stages[max(0, place.stage - (place.step == 0))].optimiser)
    run.folder.load(newest, learner.tensors())
    learner.remember(plain["memory"])  # type: ignore[arg-type]
    if place.step:
        stages[place.stage].batches.load_state_dict(plain["batches"])  # type: ignore[arg-type]
    log.info("resumed folder=%s stage=%d step=%d", run.folder.path, place.stage, place.step)
    return place
