"""The bench `train`: a step of training beside transformers, and packed batches beside padded ones.

fp32 or bf16, whichever is faster; denormals are flushed but where a case says otherwise; sides take turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from kosmos.bench.figure import Figure
from kosmos.bench.train_packing import PACKING_SHAPE, mixture_case, pages_case
from kosmos.bench.train_step import STEP_SHAPE, step_case
from kosmos.config import KosmosConfig

__all__ = ["TRAIN_CASES", "TrainBench", "run_train"]


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """What to measure.

    Attributes:
        data: folder of real data; where there is none, documents are drawn.
        rounds: every side takes half as many turns, as a turn takes seconds.
        peers: run transformers, and padding, beside us.
        step_shape, rows, length: of `step-100m`: the model, rows of a step and of a sequence.
        packing_shape, packing_rows, longest: of the others: the model, rows computed at once, of the longest piece.
    """

    data: Path
    rounds: int = 7
    peers: bool = True
    cases: tuple[str, ...] = ()
    step_shape: KosmosConfig = STEP_SHAPE
    rows: int = 2048
    length: int = 512
    packing_shape: KosmosConfig = PACKING_SHAPE
    packing_rows: int = 4096
    longest: int = 2048
    clock: Callable[[], float] = time.perf_counter


Case: TypeAlias = Callable[[TrainBench, Path], Figure]

_CASES: Mapping[str, Case] = {
    "step-100m": step_case,
    "packing-pages": pages_case,
    "packing-mixture": mixture_case,
}
TRAIN_CASES = tuple(_CASES)


def run_train(bench: TrainBench) -> Iterator[Figure]:
    """Measure and give one figure a case, as they are ready.

    Raises: ValueError if peers are wanted and transformers is not installed.
    """
    for case in bench.cases or TRAIN_CASES:
        with tempfile.TemporaryDirectory(prefix="kosmos-bench-") as folder:
            yield _CASES[case](bench, Path(folder))
