"""How training shows itself on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping

__all__ = ["TrainingProgress"]

LINE_EVERY = 100  # steps, where there is no terminal
SHOWN = ("caption", "text", "interleaved", "score", "validation_loss", "validation_cider_d")


class TrainingProgress:
    """Told of every step by the process that trains; pickles, and makes its bar where it is used."""

    def __init__(self) -> None:
        self._bar: object | None = None
        self._stage = ""
        self._last: dict[str, float] = {}

    def told(self, what: str) -> None:
        """Something is being prepared."""
        print(what, file=sys.stderr, flush=True)

    def __call__(self, stage: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
        self._last |= {name: figures[name] for name in SHOWN if name in figures}
        words = "  ".join(f"{name} {value:.3f}" for name, value in self._last.items())
        if sys.stderr.isatty():
            self._show(stage, step, steps, words)
        elif step % LINE_EVERY == 0 or step == steps or "validation_loss" in figures:
            print(f"{stage} {step}/{steps}  {words}", file=sys.stderr, flush=True)

    def _show(self, stage: str, step: int, steps: int, words: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if not isinstance(self._bar, Progress):
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[words]}"), console=Console(stderr=True))
            self._bar.start()
        if stage != self._stage:
            self._stage, self._last = stage, {}
            self._task = self._bar.add_task(stage, total=steps, words="")
        self._bar.update(self._task, completed=step, words=words)
        if step == steps:
            self._bar.stop_task(self._task)
            self._bar.refresh()
