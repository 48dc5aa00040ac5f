"""How training shows itself on stderr: a bar with its figures on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kosmos.training.figure_names import group_of

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress, TaskID

__all__ = ["TrainingProgress"]

LINE_SECONDS = 30.0  # between lines, where there is no terminal
SHOWN = ("loss", "reward", "validation")  # groups of figures that have their place on the screen
OLD_FIGURES = ("validation",)  # what is not told every step stays on show
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


class TrainingProgress:
    """Told of every step by the process that trains; pickles, and makes its bar where it is used."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._kept: dict[str, float] = {}
        self._next_line = 0.0
        self._bar: _Bar | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_bar": None}

    def told(self, what: str) -> None:
        """Something is being prepared, or was."""
        print(what, file=sys.stderr, flush=True)

    def __call__(self, stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
        first = stage != self._stage
        if first:
            self._stage, self._kept = stage, {}
        self._kept = {name: value for name, value in self._kept.items() if group_of(name) in OLD_FIGURES}
        self._kept |= figures
        words = _losses(self._kept), _speed(self._kept), _left(self._kept, steps - step)
        if sys.stderr.isatty():
            self._show(stage, step, steps, words)
        elif first or step == steps or self._clock() >= self._next_line or any(map(_is_validation, figures)):
            self._next_line = self._clock() + LINE_SECONDS
            print("  ".join(filter(None, (f"{stage} {step}/{steps}", *words))), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is; what is printed next stands below it."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, stage: str, step: int, steps: int, words: tuple[str, str, str]) -> None:
        if self._bar is not None and self._bar.stage != stage:
            self.close()
        if self._bar is None:
            self._bar = _Bar(stage, steps)
        self._bar.update(step, words)
        if step == steps:
            self.close()


class _Bar:
    """One stage: a bar above a line of figures."""

    def __init__(self, stage: str, steps: int) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.stage = stage
        console = Console(stderr=True)
        columns = (TextColumn("[bold]{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress: Progress = Progress(*columns, TextColumn("{task.fields[left]}"), console=console, expand=True)
        self._task: TaskID = self._progress.add_task(stage, total=steps, left="")
        self._live: Live = Live(self._progress, console=console, refresh_per_second=4)
        self._live.start()
        console.show_cursor(True)  # a killed process cannot bring it back
        atexit.register(self.stop)  # a run that ends by an error leaves a clean line too

    def update(self, step: int, words: tuple[str, str, str]) -> None:
        from rich.console import Group
        from rich.text import Text

        losses, speed, left = words
        self._progress.update(self._task, completed=step, left=left)
        lines = [Text(line, no_wrap=True, overflow="ellipsis", style=style) for line, style in _styled(losses, speed)]
        self._live.update(Group(self._progress, *lines))

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self._live.stop()


def _styled(losses: str, speed: str) -> list[tuple[str, str]]:
    return [(words, style) for words, style in ((losses, ""), (speed, "dim")) if words]


def _is_validation(name: str) -> bool:
    return group_of(name) == "validation"


def _losses(figures: Mapping[str, float]) -> str:
    shown = {name: value for group in SHOWN for name, value in figures.items() if group_of(name) == group}
    words = [f"{name} {value:.3f}" for name, value in shown.items()]
    if figures.get("skipped"):
        words.append(f"{figures['skipped']:.0f} skipped")
    return "  ".join(words)


def _speed(figures: Mapping[str, float]) -> str:
    words = []
    if "tokens_per_s" in figures:
        words.append(f"{_short(figures['tokens_per_s'])} tokens/s")
    if "images_per_s" in figures:
        words.append(f"{_short(figures['images_per_s'])} images/s")
    if "mfu" in figures:
        words.append(f"MFU {100 * figures['mfu']:.1f} %")
    return "  ".join(words)


def _left(figures: Mapping[str, float], steps: int) -> str:
    """When a stage will be over, as far as its steps tell."""
    if "seconds_per_step" not in figures or steps < 1:
        return ""
    seconds = round(figures["seconds_per_step"] * steps)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h left"
    if hours:
        return f"{hours} h {minutes:02} min left"
    return f"{minutes} min {seconds % 60:02} s left" if minutes else f"{seconds} s left"


def _short(value: float) -> str:
    """Three digits and the unit's prefix."""
    scale, prefix = next(((scale, prefix) for scale, prefix in UNITS if value >= scale), (1.0, ""))
    number = value / scale
    return f"{number:.0f}{prefix}" if number >= 100 else f"{number:.3g}{prefix}"
