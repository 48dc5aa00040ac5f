"""Who is told of a run beside its log: TensorBoard, wandb, trackio. Steps count through all stages.

Each package is imported by the one function that opens it. `log.jsonl` is the truth and these are views of it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol  # Any: packages that need not be here

from kosmos.training.figure_names import group_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TRACKERS", "Tracker", "open_trackers"]

log = logging.getLogger(__name__)

PROJECT = "kosmos"
EVENTS = "tensorboard"  # folder inside the run's: `tensorboard --logdir runs` finds every run
IDENTITY = "tracker_id"  # file inside the run's folder: a run that goes on is the same run to wandb and trackio


class Tracker(Protocol):
    """Shows a run somewhere."""

    def begin(self, step: int) -> None:
        """The next step told is `step`; whatever was told of it and later ones, before a kill, will be told again."""
        ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of one step."""
        ...

    def text(self, step: int, name: str, words: str) -> None:
        """Words that the model wrote at one step."""
        ...

    def close(self) -> None:
        """Everything told is written."""
        ...


def open_trackers(names: Sequence[str], folder: Path) -> list[Tracker]:
    """The trackers of a run; only the process that writes its log opens them.

    Args:
        folder: of the run.
    Raises: ValueError for a name that is not in the table, or whose package is missing; TensorBoard, which nobody need
        have asked for, is then left out with a warning.
    """
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise ValueError(f"unknown tracker {unknown[0]!r}; known trackers: {', '.join(TRACKERS)}")
    opened = [TRACKERS[name](folder) for name in names]
    return [tracker for tracker in opened if tracker is not None]


def _tensorboard(folder: Path) -> Tracker | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("TensorBoard is not installed, so it gets no curves; install kosmos-mllm[train]")
        return None
    return _TensorBoard(lambda step: SummaryWriter(str(folder / EVENTS), purge_step=step))


def _wandb(folder: Path) -> Tracker:
    wandb = _package("wandb")
    identity = _identity(folder)
    told = os.environ.get  # its own variables go before arguments of ours
    run = wandb.init(
        project=told("WANDB_PROJECT", PROJECT),
        name=told("WANDB_NAME", folder.resolve().name),
        id=told("WANDB_RUN_ID", identity),
        dir=str(folder),
        config=_config(folder),
        resume="allow",
        mode=told("WANDB_MODE", "offline"),
    )
    return _Run(run, lambda step, words: wandb.Table(columns=["step", "words"], data=[[step, words]]))


def _trackio(folder: Path) -> Tracker:
    trackio = _package("trackio")
    name = f"{folder.resolve().name}-{_identity(folder)}"
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    run = trackio.init(project=project, name=name, config=_config(folder), resume="allow", embed=False)
    return _Run(run, lambda step, words: trackio.Markdown(_as_block(words)))


TRACKERS: dict[str, Callable[[Path], Tracker | None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}


class _TensorBoard:
    """Event files, a new one each time a run begins or goes on, written out with every step told."""

    def __init__(self, writer_from: Callable[[int | None], SummaryWriter]) -> None:
        self._writer_from = writer_from
        self._first: int | None = None
        self._open: SummaryWriter | None = None

    @property
    def _writer(self) -> SummaryWriter:
        """Opened when there is something to write: a finished run that is started again leaves no file."""
        if self._open is None:
            self._open = self._writer_from(self._first)
        return self._open

    def begin(self, step: int) -> None:
        self.close()
        self._first = step

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{group_of(name)}/{name}", value, step)
        self._writer.flush()  # so that a kill loses no step that is not done again

    def text(self, step: int, name: str, words: str) -> None:
        self._writer.add_text(name, _as_block(words), step)
        self._writer.flush()

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


class _Run:
    """A run of wandb, or of trackio, which speaks the same way. wandb keeps the first figures of a step by itself."""

    def __init__(self, run: Any, shown: Callable[[int, str], object]) -> None:
        self._run, self._shown = run, shown

    def begin(self, step: int) -> None:
        pass

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({f"{group_of(name)}/{name}": value for name, value in figures.items()}, step=step)

    def text(self, step: int, name: str, words: str) -> None:
        self._run.log({name: self._shown(step, words)}, step=step)

    def close(self) -> None:
        self._run.finish()


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise ValueError(
            f"tracker {name!r} needs its package; install kosmos-mllm[{name}] or leave it out of --show.trackers"
        ) from missing


def _identity(folder: Path) -> str:
    """Eight letters that tell this run from others of the same name, the same each time it goes on."""
    path = folder / IDENTITY
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4) + "\n", "utf-8")
    return path.read_text("utf-8").strip()


def _config(folder: Path) -> dict[str, object]:
    """What the run is, as it stands in its folder."""
    path = folder / "config.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _as_block(words: str) -> str:
    """Markdown that shows words as they are."""
    return "\n".join(f"    {line}" for line in words.split("\n"))
