"""A run shows itself: lines now and then into a file, a bar with figures on a terminal, also from another process."""

from __future__ import annotations

import io
import os
import pickle
import pty
import subprocess
import sys

import pytest

from kosmos.cli.progress import TrainingProgress

FIGURES = {
    "text": 3.25,
    "caption": 2.5,
    "learning_rate": 1e-4,
    "tokens_per_s": 12_345.6,
    "images_per_s": 98.7,
    "mfu": 0.4123,
    "seconds_per_step": 2.0,
}


class _Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_line_holds_losses_speed_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingProgress()("words", 10, 100, FIGURES)
    (line,) = _lines(capsys)
    assert line == (
        "words 10/100  text 3.250  caption 2.500  12.3k tokens/s  98.7 images/s  MFU 41.2 %  3 min 00 s left"
    )


def test_lines_come_now_and_then_and_at_both_ends_and_validations(capsys: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    shown = TrainingProgress(clock)
    for step in range(1, 101):
        clock.now += 1.0
        shown("words", step, 100, FIGURES | ({"validation_loss": 2.0} if step == 50 else {}))
    steps = [int(line.split()[1].split("/")[0]) for line in _lines(capsys)]
    assert steps == [1, 31, 50, 80, 100]


def test_validation_stays_on_show_and_other_figures_do_not_outlive_their_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = _Clock()
    shown = TrainingProgress(clock)
    shown("words", 1, 9, {"text": 3.0, "validation_loss": 2.0})
    clock.now = 100.0
    shown("words", 2, 9, {"caption": 2.5})
    clock.now = 200.0
    shown("reward", 1, 9, {"score": 0.5})
    assert _lines(capsys) == [
        "words 1/9  text 3.000  validation_loss 2.000",
        "words 2/9  caption 2.500  validation_loss 2.000",
        "reward 1/9  score 0.500",
    ]


def test_steps_passed_over_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingProgress()("words", 1, 9, {"text": 3.0, "skipped": 2.0})
    assert _lines(capsys) == ["words 1/9  text 3.000  2 skipped"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "50 s left"),
        (1.0, "1 min 40 s left"),
        (36.5, "1 h 00 min left"),
        (90.0, "2 h 30 min left"),
        (3000.0, "3 d 11 h left"),
    ],
)
def test_what_is_left_reads_as_people_say_it(capsys: pytest.CaptureFixture[str], seconds: float, words: str) -> None:
    TrainingProgress()("words", 1, 101, {"seconds_per_step": seconds})
    assert _lines(capsys) == [f"words 1/101  {words}"]


def test_a_terminal_gets_a_bar_with_its_figures_and_keeps_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    shown = TrainingProgress()
    shown("words", 1, 2, FIGURES)
    while_running = screen.getvalue()  # all that a killed process has said
    shown.close()
    drawn = screen.getvalue()
    for words in ("words", "1/2", "text 3.250", "12.3k tokens/s", "98.7 images/s", "MFU 41.2 %", "2 s left"):
        assert words in drawn
    assert while_running.rfind("\x1b[?25h") > while_running.rfind("\x1b[?25l") >= 0


def test_a_finished_stage_leaves_its_bar_and_the_next_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    shown = TrainingProgress()
    for stage in ("words", "reward"):
        for step in (1, 2):
            shown(stage, step, 2, {"text": 1.0})
    assert sys.stderr is screen  # nothing stays redirected
    drawn = screen.getvalue()
    assert drawn.index("words") < drawn.index("reward")
    assert drawn.count("2/2") >= 2


def test_a_line_that_is_too_long_for_the_screen_is_cut_and_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    shown = TrainingProgress()
    shown("words", 1, 2, {f"kind_number_{number}": 1.0 for number in range(9)})
    shown.close()
    assert "kind_number_0" in screen.getvalue()
    assert "kind_number_8" not in screen.getvalue()


def test_it_pickles_with_a_bar_on_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", _Terminal())
    shown = TrainingProgress()
    shown("words", 1, 3, FIGURES)
    copy = pickle.loads(pickle.dumps(shown))  # noqa: S301  (our own bytes)
    shown.close()
    copy("words", 2, 3, FIGURES)
    copy.close()
    assert "2/3" in sys.stderr.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_run_that_breaks_off_leaves_a_whole_line_on_a_real_terminal() -> None:
    code = (
        "from kosmos.cli.progress import TrainingProgress as T; T()('words', 1, 2, {'text': 1.0}); raise SystemExit(3)"
    )
    near, far = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", code], stderr=far, env=environment, timeout=240)
    os.close(far)
    drawn = b""
    try:
        while piece := os.read(near, 4096):
            drawn += piece
    except OSError:  # what a terminal says when nobody holds its other end
        pass
    os.close(near)
    assert done.returncode == 3
    assert b"text 1.000" in drawn
    assert drawn.replace(b"\x1b[?25h", b"").endswith(b"\n")


def test_what_is_being_prepared_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingProgress().told("reading shards")
    assert _lines(capsys) == ["reading shards"]
