"""Answers come in the order of the questions, whoever gives them."""

from __future__ import annotations

import os
import signal

import pytest

from data_pipelines.shard_pool import each_shard


def square(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_answers_come_in_order_from_two_processes() -> None:
    assert list(each_shard(square, range(40), workers=2)) == [number * number for number in range(40)]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_comes_through(workers: int) -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        list(each_shard(square, [3, -1, 2], workers=workers))


@pytest.mark.slow
def test_a_killed_worker_is_an_error_in_words() -> None:
    with pytest.raises(OSError, match="a worker process was killed"):
        list(each_shard(die, [1, 2], workers=2))


@pytest.mark.slow
def test_answers_come_in_order_from_ray() -> None:
    pytest.importorskip("ray")
    assert list(each_shard(square, range(20), workers=2, engine="ray")) == [number * number for number in range(20)]
