"""The bench `loss`: a training step of the output head and its loss, chunk by chunk beside whole logits.

Both sides give the loss and the gradients of hidden states and head, fp32, at the width and vocabulary of Kosmos-2.
Cases: `memory-64k` (the most memory a step takes beside its inputs, each side in a fresh process), `time-64k`.
Legend: L rows, D width, V vocabulary.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.bench.figure import Figure
from kosmos.bench.floors import best_matrix_rate
from kosmos.bench.timing import in_turn
from kosmos.training.cross_entropy import cross_entropy, rows_at_once

__all__ = ["LOSS_CASES", "LossBench", "run_loss"]

LOSS_CASES = ("memory-64k", "time-64k")
PEER = "whole-logits"
PRODUCTS = 3  # of rows, vocabulary and width: the logits and two gradients
MEGABYTE = 2**20
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LossBench:
    """What to measure.

    Attributes:
        rounds: how often each side takes its turn in `time-64k`; memory is looked at once.
        rows: tokens with a loss.
        peers: run whole logits beside us.
        cases: which cases to measure.
        clock: `time.process_time` on a machine that others use too.
    """

    rounds: int = 3
    rows: int = 2048
    width: int = 2048
    vocab_size: int = 65_037
    peers: bool = True
    cases: tuple[str, ...] = LOSS_CASES
    clock: Callable[[], float] = time.perf_counter

    @property
    def sides(self) -> tuple[str, ...]:
        """Contestants by name."""
        return ("ours", PEER) if self.peers else ("ours",)


def run_loss(bench: LossBench) -> Iterator[Figure]:
    """Measure and give one figure a case."""
    torch.set_flush_denormal(True)
    measure = {"memory-64k": _memory, "time-64k": _time}
    for case in bench.cases:
        yield measure[case](bench)


def _memory(bench: LossBench) -> Figure:
    """The limit is the two gradients, which any side must give."""
    megabytes = {side: _in_fresh_process(bench, side) for side in bench.sides}
    whole = bench.rows * bench.vocab_size * FLOAT_BYTES / MEGABYTE
    return Figure(
        bench="loss",
        case="memory-64k",
        unit="MB",
        ours=megabytes["ours"],
        peers=_others(megabytes),
        limit=(bench.rows + bench.vocab_size) * bench.width * FLOAT_BYTES / MEGABYTE,
        notes={"whole logits, MB": whole, "rows of a chunk": min(bench.rows, rows_at_once(bench.vocab_size))},
    )


def _time(bench: LossBench) -> Figure:
    """The limit is the products at the machine's best rate."""
    problem = _Problem(bench)
    timed = in_turn({side: problem.step(side) for side in bench.sides}, bench.rounds, bench.clock)
    return Figure(
        bench="loss",
        case="time-64k",
        unit="s",
        ours=timed["ours"].median,
        peers=_others({side: entry.median for side, entry in timed.items()}),
        spread={side: entry.spread for side, entry in timed.items()},
        limit=PRODUCTS * bench.rows * bench.vocab_size * bench.width / best_matrix_rate(),
    )


def _others(values: Mapping[str, float]) -> dict[str, float]:
    return {side: value for side, value in values.items() if side != "ours"}


class _Problem:
    """Random hidden states, head and targets."""

    def __init__(self, bench: LossBench) -> None:
        draws = torch.Generator().manual_seed(0)
        self.hidden_LD = torch.randn(bench.rows, bench.width, generator=draws).requires_grad_()
        self.head_VD = torch.randn(bench.vocab_size, bench.width, generator=draws).mul_(bench.width**-0.5)
        self.head_VD.requires_grad_()
        self.targets_L = torch.randint(bench.vocab_size, (bench.rows,), generator=draws)
        self.weights_L = torch.ones(bench.rows)

    def step(self, side: str) -> Callable[[], None]:
        """Loss and gradients by one side; gradients start as None."""
        loss = {"ours": self._in_chunks, PEER: self._whole}[side]

        def run() -> None:
            self.hidden_LD.grad = self.head_VD.grad = None
            loss().backward()

        return run

    def _in_chunks(self) -> Tensor:
        return cross_entropy(self.hidden_LD, self.head_VD, self.targets_L, self.weights_L)

    def _whole(self) -> Tensor:
        losses_L = F.cross_entropy(F.linear(self.hidden_LD, self.head_VD), self.targets_L, reduction="none")
        return (losses_L * self.weights_L).sum()


def _in_fresh_process(bench: LossBench, side: str) -> float:
    """What `_peak_megabytes` finds where nothing else ever took memory."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_peak_megabytes, bench, side, torch.get_num_threads()).result()


def _peak_megabytes(bench: LossBench, side: str, threads: int) -> float:
    """The most resident memory during a step beyond what its inputs take."""
    torch.set_num_threads(threads)
    step = _Problem(bench).step(side)
    before = _status_bytes("VmRSS")
    step()
    return (_status_bytes("VmHWM") - before) / MEGABYTE


def _status_bytes(field: str) -> int:
    """An entry of the kernel's account of this process: memory held (VmRSS), or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
