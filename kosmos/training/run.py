"""`kosmos train PRESET`: recipe and shards to a run folder that resumes, and that everything else opens as it is.

Puts the parts together: what a run begins from, what learns, how it lies on devices, streams, log, checkpoints. Works
alone and under `torchrun`, where each process calls it.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from data_pipelines.loader.loader import Loader
from kosmos.checkpoint import newest_step
from kosmos.packed import Packed
from kosmos.pretrained import Kosmos
from kosmos.processor import Processor
from kosmos.training.curves import CURVES, write_curves
from kosmos.training.distributed import Launch, joined, launch
from kosmos.training.fitting import check_memory
from kosmos.training.kept_recipe import kept_recipe, write_recipe
from kosmos.training.learner import Learner
from kosmos.training.learning import choose_parameters
from kosmos.training.loop import Figures, Progress, Run, Stage, train
from kosmos.training.lora import add_adapters
from kosmos.training.objective import Batch, KosmosObjective, Part, Sum
from kosmos.training.parallel import Parallel, share_out
from kosmos.training.planning.inventory import Inventory, take_inventory
from kosmos.training.precision import autocast
from kosmos.training.publishing import publisher, whole_model
from kosmos.training.recipe import TrainRecipe
from kosmos.training.run_folder import RunFolder
from kosmos.training.run_log import LOG, RunLog
from kosmos.training.sparse import expert_figures
from kosmos.training.start import Start, start
from kosmos.training.streams import open_loader
from kosmos.training.throughput import BatchFlops, Throughput, peak_rate
from kosmos.training.trackers import open_trackers
from kosmos.training.validation import HeldOut, continuations, read_held_out
from kosmos.transformer.kernels.memory import keep_freed_memory

__all__ = ["STOPPED", "train_kosmos"]

log = logging.getLogger(__name__)

STOPPED = 128 + signal.SIGTERM  # what schedulers and torchrun take for "asked to end"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def train_kosmos(
    recipe: TrainRecipe,
    folder: Path,
    *,
    told: Callable[[str], None] = lambda what: None,
    progress: Progress | None = None,
) -> Path:
    """Train to the end, or go on where `folder` left off.

    Args:
        folder: of the run.
        told: hears what is being prepared.
    Returns: the last step's checkpoint folder.
    Raises: ValueError, OSError for a recipe, data or folder that will not do, before training starts where that can be
        known; SystemExit with `STOPPED` after SIGTERM, with everything saved.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    here = launch()
    with joined(here, here.device), _asked_to_stop() as stopped:
        setting = _prepare(recipe, folder, here, told)
        with ExitStack() as closed:
            run = _run(setting, folder, stopped, progress, closed)
            learner = Learner(setting.objective, setting.parallel)
            told(f"training {sum(p.numel() for p in learner.parameters.values()):,} parameters")
            ended = train(learner, [_stage(setting)], run)
    if not ended:
        raise SystemExit(STOPPED)
    return newest_step(folder)


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What a process trains, and with whom."""

    recipe: TrainRecipe
    begun: Start
    processor: Processor
    objective: KosmosObjective
    parallel: Parallel
    loader: Loader[Packed]
    device: torch.device
    devices: int
    inventory: Inventory
    held_out: HeldOut | None

    def parts(self, batch: Batch, step: int) -> Sequence[Part]:
        """The kinds of a micro-batch, one after the other."""
        return [partial(self._sums, name, batch.get(name)) for name in self.recipe.data.streams]

    def _sums(self, name: str, packed: Packed | None) -> dict[str, Sum]:
        # A batch may have lost all its documents; weights that are shared out are gathered for it all the same.
        rows = packed if isinstance(packed, Packed) else self._nothing
        with self.numbers():
            return self.objective.losses({name: rows.to(self.device)})

    def numbers(self) -> AbstractContextManager[object]:
        """The context in which products are computed."""
        return autocast(self.recipe.compute.precision, self.device.type)

    @cached_property
    def _nothing(self) -> Packed:
        """A sequence of which no word is asked."""
        rows = self.processor.encode(" ")
        return self.processor.collate([replace(rows, loss_weights=(0.0,) * rows.length)])

    def validate(self, rank: int, ranks: int) -> Figures:
        """Held-out nats a word where there are documents, and how experts were used last."""
        if self.held_out is None:
            return expert_figures(self.begun.model)
        with self.numbers():
            figures = self.held_out.figures(self.objective, self.processor, self.parallel, self.device)
            return figures | expert_figures(self.begun.model)


def _prepare(recipe: TrainRecipe, folder: Path, here: Launch, told: Callable[[str], None]) -> _Setting:
    """Everything that can fail, before the first step. The recipe is written when all of it was right."""
    ranks = max(1, here.ranks // recipe.parallel.tensor_parallel)
    recipe = kept_recipe(recipe, folder, ranks=ranks, device=here.device)
    check_memory(recipe, here)
    told(f"opening {recipe.model}")
    begun = start(recipe)
    processor = begun.processor()
    held_out = _held_out(recipe, processor)
    if recipe.lora.rank:
        add_adapters(begun.model, recipe.lora, recipe.model)
    else:
        choose_parameters(begun.model, recipe.eye)
    objective = KosmosObjective(begun.model.to(here.device), recipe.optimiser.label_smoothing)
    parallel = share_out(objective, recipe.parallel, recipe.compute, here)
    loader = open_loader(recipe, processor, parallel)
    if parallel.first:
        write_recipe(recipe, folder)
    return _Setting(
        recipe=recipe,
        begun=begun,
        processor=processor,
        objective=objective,
        parallel=parallel,
        loader=loader,
        device=here.device,
        devices=here.ranks,
        inventory=take_inventory(begun.model.config, recipe.eye),
        held_out=held_out,
    )


def _held_out(recipe: TrainRecipe, processor: Processor) -> HeldOut | None:
    show, longest = recipe.show, processor.config.decoder.max_length
    return read_held_out(show.validation, show.validation_documents, processor, longest) if show.validation else None


def _stage(setting: _Setting) -> Stage:
    recipe = setting.recipe
    flops = BatchFlops(setting.inventory, recipe.lora)
    throughput = Throughput(
        shares=setting.parallel.ranks,
        devices=setting.devices,
        peak=peak_rate(setting.device, DTYPES[recipe.compute.precision]),
    )
    return Stage(
        name="train",
        optimiser=recipe.optimiser,
        batches=setting.loader,
        micro_batches=recipe.compute.micro_batches // setting.parallel.ranks,
        parts=setting.parts,
        validate=setting.validate,
        validate_every=recipe.show.validate_every,
        log_every=recipe.show.log_every,
        save_every=recipe.save.every,
        measure=lambda batches, seconds: throughput.step(flops.work(batches), seconds),
    )


def _run(
    setting: _Setting, folder: Path, stopped: Callable[[], bool], progress: Progress | None, closed: ExitStack
) -> Run:
    """Where the run keeps itself; closed with `closed`."""
    recipe, parallel = setting.recipe, setting.parallel
    steps = RunFolder(folder, recipe.save)
    closed.callback(steps.close)
    log = None
    if parallel.first:
        log = RunLog(folder, open_trackers(recipe.show.trackers, folder))
        closed.callback(log.close)
        closed.callback(_last_curves, folder, recipe.name)
    return Run(
        folder=steps,
        log=log,
        seed=recipe.seed,
        progress=progress,
        write_model=partial(publisher, setting.begun, recipe, parallel),
        stopped=stopped,
        samples=partial(_samples, setting) if setting.held_out is not None else None,
        validated=partial(write_curves, folder / LOG, folder / CURVES, recipe.name),
    )


def _last_curves(folder: Path, title: str) -> None:
    """At the end of a run, whose own reason to end is worth more."""
    try:
        write_curves(folder / LOG, folder / CURVES, title)
    except (OSError, ValueError) as error:
        log.warning("%s could not be drawn: %s", folder / CURVES, error)


def _samples(setting: _Setting) -> dict[str, str]:
    """What the averaged model goes on to say, on the first rank."""
    begun, show = setting.begun, setting.recipe.show
    network = whole_model(begun, setting.recipe, setting.parallel)
    if network is None or setting.held_out is None:
        return {}
    kosmos = Kosmos(
        network.to(setting.device),
        Processor(setting.processor.tokenizer, setting.processor.config),
        name="the model in training",
        chat_template=begun.chat_template,
        tokenizer_model=begun.tokenizer_model,
    )
    return continuations(kosmos, setting.held_out.documents[: show.samples], show.sample_tokens)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM came since; until then it does not end the process. Outside the main thread nothing is caught."""
    asked: list[int] = []  # no lock of an Event: a second signal would wait in the first one's handler for ever
    if threading.current_thread() is not threading.main_thread():
        yield lambda: bool(asked)
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
