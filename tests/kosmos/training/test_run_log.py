"""A log is whole after a kill at any byte, holds no step twice, and says what it could not write as a number."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmos.training.run_log import RunLog, read_log


class _Heard:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def begin(self, step: int) -> None:
        self.told.append(("begin", step))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.told.append((step, dict(figures)))

    def text(self, step: int, name: str, words: str) -> None:
        self.told.append((step, name, words))

    def close(self) -> None:
        self.told.append(("close",))


class _Broken(_Heard):
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        raise OSError("no space left on device")


def _line(step: int, *, stage: int = 0, **figures: object) -> dict[str, object]:
    return {"stage": ("words", "reward")[stage], "stage_number": stage, "step": step, **figures}


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "new" / "run")
    records = [_line(step, text=1 / step, skipped=step) for step in (1, 2, 3)]
    for record in records:
        log.write(record)
    found = read_log(log.path)
    assert [record["step"] for record in found] == [1, 2, 3]
    assert [record["skipped"] for record in found] == [1, 2, 3]
    assert found[2]["text"] == pytest.approx(1 / 3, rel=1e-8)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_log_torn_at_any_byte_goes_on_whole(tmp_path: Path, cut: int) -> None:
    for step in (1, 2):
        RunLog(tmp_path).write(_line(step, text=2.5))
    path = tmp_path / "log.jsonl"
    written = path.read_bytes()
    path.write_bytes(written[:-cut])
    assert [record["step"] for record in read_log(path)] == [1]  # also to one that only looks
    RunLog(tmp_path).write(_line(2, text=2.5))
    assert path.read_bytes() == written


def test_a_last_line_that_the_disk_filled_with_nothing_is_dropped(tmp_path: Path) -> None:
    RunLog(tmp_path).write(_line(1))
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes() + b"\0" * 40 + b"\n")
    assert len(read_log(path)) == 1
    RunLog(tmp_path).write(_line(2))
    assert [record["step"] for record in read_log(path)] == [1, 2]


@pytest.mark.parametrize("line", [b"{broken", b"[1]", b"\xff"])
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_dropped(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"log\.jsonl:2 is no JSON object"):
        RunLog(tmp_path)
    assert path.read_bytes() == before


@given(
    lines=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), unique=True).map(sorted),
    place=st.tuples(st.integers(0, 3), st.integers(0, 9)),
)
def test_a_cut_keeps_just_the_steps_that_are_done(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[int, int]], place: tuple[int, int]
) -> None:
    log = RunLog(tmp_path_factory.mktemp("run"))
    for stage, step in lines:
        log.write({"stage_number": stage, "step": step})
    log.cut(*place)
    kept = [(record["stage_number"], record["step"]) for record in (read_log(log.path) if lines else [])]
    assert kept == [line for line in lines if line <= place]


def test_a_cut_that_drops_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write(_line(1))
    before = log.path.stat().st_ino
    log.cut(0, 1)
    assert log.path.stat().st_ino == before


def test_figures_that_are_not_finite_are_null_and_counted(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write(_line(1, text=math.nan, gradient_norm=math.inf, caption=2.0))
    log.write(_line(2, text=-math.inf, experts_loads=[1.0, math.nan]))
    log.write(_line(3, text=1.0))
    first, second, third = read_log(log.path)
    assert first == {**_line(1), "text": None, "gradient_norm": None, "caption": 2.0, "not_finite": 2}
    assert second == {**_line(2), "text": None, "experts_loads": [1.0, None], "not_finite": 2}
    assert "not_finite" not in third
    assert log.not_finite == {"text": 2, "gradient_norm": 1, "experts_loads": 1}
    assert "NaN" not in log.path.read_text("utf-8")


# Denormals are flushed in every process that computes, so none is drawn.
@given(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_a_loss_of_float32_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, loss: float) -> None:
    log = RunLog(tmp_path_factory.mktemp("run"))
    log.write(_line(1, text=loss))
    assert struct.pack("f", read_log(log.path)[0]["text"]) == struct.pack("f", loss)


def test_times_and_rates_are_short_and_small_rates_keep_their_digits(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write(_line(1, seconds=1.23456789, tokens_per_s=12345.678, mfu=0.412345678, learning_rate=2.5e-7 / 3))
    (record,) = read_log(log.path)
    assert (record["seconds"], record["tokens_per_s"], record["mfu"]) == (1.2346, 12346.0, 0.41235)
    assert record["learning_rate"] == pytest.approx(2.5e-7 / 3, rel=1e-8)


def test_a_value_that_json_does_not_know_is_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    with pytest.raises(TypeError, match="loads of a record is object"):
        log.write(_line(1, loads=object()))
    assert not log.path.exists()


def test_trackers_count_steps_through_the_stages(tmp_path: Path) -> None:
    heard = _Heard()
    log = RunLog(tmp_path, [heard])
    log.cut(0, 0)
    log.write(_line(5, text=1.0))
    log.write(_line(8, text=0.5, skipped=2))
    log.write(_line(3, stage=1, score=0.25))
    log.close()
    assert heard.told == [
        ("begin", 1),
        (5, {"text": 1.0}),
        (8, {"text": 0.5, "skipped": 2.0}),
        (11, {"score": 0.25}),
        ("close",),
    ]


def test_a_resumed_run_tells_trackers_where_it_goes_on(tmp_path: Path) -> None:
    before = RunLog(tmp_path)
    for record in (_line(8), _line(3, stage=1), _line(6, stage=1)):
        before.write(record)
    heard = _Heard()
    log = RunLog(tmp_path, [heard])
    log.cut(1, 4)
    log.write(_line(5, stage=1, score=0.25))
    assert heard.told == [("begin", 13), (13, {"score": 0.25})]
    assert [record["step"] for record in read_log(log.path)] == [8, 3, 5]


def test_steps_that_were_dropped_do_not_move_the_next_stage(tmp_path: Path) -> None:
    RunLog(tmp_path).write(_line(8))
    heard = _Heard()
    log = RunLog(tmp_path, [heard])
    log.cut(0, 4)
    log.write(_line(6, text=1.0))  # the stage ends sooner this time
    log.write(_line(1, stage=1, score=0.5))
    assert heard.told == [("begin", 5), (6, {"text": 1.0}), (7, {"score": 0.5})]


def test_samples_are_words_to_trackers_and_part_of_the_log(tmp_path: Path) -> None:
    heard = _Heard()
    RunLog(tmp_path, [heard]).write(_line(4, samples={"A photo of": "a dog\nin the 雪"}))
    assert heard.told == [(4, "A photo of", "a dog\nin the 雪")]
    (record,) = read_log(tmp_path / "log.jsonl")
    assert record["samples"] == {"A photo of": "a dog\nin the 雪"}


def test_trackers_are_told_no_figure_that_is_not_finite(tmp_path: Path) -> None:
    heard = _Heard()
    RunLog(tmp_path, [heard]).write(_line(1, text=math.nan, caption=1.0))
    assert heard.told == [(1, {"caption": 1.0, "not_finite": 1.0})]


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = _Heard()
    log = RunLog(tmp_path, [_Broken(), heard])
    for step in (1, 2):
        log.write(_line(step, text=1.0))
    assert len(heard.told) == len(read_log(log.path)) == 2
    (message,) = (record.getMessage() for record in caplog.records)
    assert "_Broken failed" in message
    assert "no space left" in message


def test_a_record_without_a_place_belongs_to_the_beginning_and_a_wrong_place_is_refused(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write({"loss": 1.0})
    log.cut(0, 0)
    assert read_log(log.path) == [{"loss": 1.0}]
    log.path.write_text(json.dumps({"step": "<b>"}) + "\n", "utf-8")
    with pytest.raises(ValueError, match="step='<b>'"):
        RunLog(tmp_path)
