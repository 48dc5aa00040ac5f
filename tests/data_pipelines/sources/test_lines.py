"""Lines are found by number in plain and zipped files, whatever was read before."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.sources import lines
from data_pipelines.sources.lines import Lines, count_lines
from tests.data_pipelines.sources.piles import put


def _read(counted: Lines, start: int, stop: int) -> list[bytes]:
    return [line for _, line in counted.read(start, stop) if isinstance(line, bytes)]


@pytest.fixture(params=["", ".gz"])
def two_files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, ...]:
    """5,000 lines, blank ones between them, in two files."""
    texts = [
        "".join(f"line {number}\n" + "\n" * (number % 3 == 0) for number in part)
        for part in (range(3_000), range(3_000, 5_000))
    ]
    return tuple(put(tmp_path / f"{name}.txt{request.param}", text) for name, text in zip("ab", texts, strict=True))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slices=st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 1_500)), min_size=1, max_size=4))
def test_any_slice_in_any_order_is_the_same(two_files: tuple[Path, ...], slices: list[tuple[int, int]]) -> None:
    counted = pickle.loads(pickle.dumps(count_lines(two_files)))  # noqa: S301  (our own, as a worker gets it)
    assert len(counted) == 5_000
    for start, length in slices:
        stop = min(5_000, start + length)
        assert _read(counted, start, stop) == [f"line {number}".encode() for number in range(start, stop)]


def test_what_goes_to_a_worker_is_small(two_files: tuple[Path, ...]) -> None:
    assert len(pickle.dumps(count_lines(two_files))) < 2_000


def test_a_zipped_file_is_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = count_lines((put(tmp_path / "a.txt.gz", "".join(f"{number}\n" for number in range(100))),))
    opened = []
    real = lines.open_plain
    monkeypatch.setattr(lines, "open_plain", lambda path: opened.append(path) or real(path))
    for start in range(0, 100, 10):
        assert _read(counted, start, start + 10) == [str(number).encode() for number in range(start, start + 10)]
    assert len(opened) == 1


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    for text in ("a\nb\n", "ccc\nddd\n"):
        file = put(tmp_path / "a.txt.gz", text)
        assert [
            line for start in (0, 1) for line in _read(count_lines((file,)), start, start + 1)
        ] == text.encode().split()


def test_a_file_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    file = put(tmp_path / "a.txt", "a\nb\n")
    counted = count_lines((file,))
    file.write_text("a\n")
    with pytest.raises(OSError, match="became shorter"):
        _read(counted, 0, 2)
