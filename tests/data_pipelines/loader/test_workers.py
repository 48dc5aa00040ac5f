"""Workers: what goes wrong in one comes out as it was said, and none outlives the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from data_pipelines.loader.loader import Loader
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import Component
from tests.data_pipelines.loader.words import Piece, WordEncoder, mixture, write_set

pytestmark = pytest.mark.slow  # processes are started anew, which takes seconds


class OddError(Exception):
    """Its arguments are not those it was made of, so it pickles but never comes back."""

    def __init__(self, where: str, what: int) -> None:
        super().__init__(f"{what} in {where}")


class Odd(WordEncoder):
    """Fails at the third batch."""

    batches = 0

    def collate(self, batch: object) -> tuple[Piece, ...]:
        self.batches += 1
        if self.batches == 3:
            raise OddError("the third batch", 7)
        return super().collate(batch)  # type: ignore[arg-type]


class Tensors(Odd):
    """Batches in torch's shared memory, which goes with the process that made them."""

    def collate(self, batch: object) -> object:  # type: ignore[override]
        import torch

        super().collate(batch)
        return torch.ones(1000)


class Large(WordEncoder):
    """Batches that a pipe does not hold."""

    def collate(self, batch: object) -> bytes:  # type: ignore[override]
        return bytes(2**20)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Component:
    """Documents of two words."""
    return write_set(tmp_path_factory.mktemp("set"), "set", [[2] * 50])


def _loader(words: Component, encoder: WordEncoder) -> Loader[object]:
    return Loader({"s": Stream(mixture=mixture(words), encoder=encoder, rows=10)}, lanes=1, workers=1)


@pytest.mark.parametrize("encoder", [Odd(), Tensors()])
def test_an_error_that_does_not_pickle_comes_after_the_batches_before_it(words: Component, encoder: Odd) -> None:
    import torch  # noqa: F401  (its queues are used where it is there)

    batches = iter(_loader(words, encoder))
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.join(3)  # time to fail, and to end if it would: what it made before must still be there
    assert len(next(batches)["s"]) >= 5  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="OddError: 7 in the third batch") as caught:
        next(batches)
    assert "in collate" in caught.value.__notes__[0]


def test_a_loop_left_early_leaves_no_process_and_no_open_file(words: Component) -> None:
    loader, counts = _loader(words, WordEncoder()), []
    for _ in range(3):
        for _ in islice(loader, 2):
            pass
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[1] == counts[2]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not any(b"spawn_main" in name for name in names)


def test_workers_of_a_killed_run_end_though_their_pipes_are_full(words: Component) -> None:
    program = f"""
import os
from tests.data_pipelines.loader.test_workers import Large, _loader
from data_pipelines.mixture import Component
if __name__ == "__main__":
    batches = iter(_loader(Component(name="set", shards={words.shards!r}), Large()))
    next(batches)
    os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    # The worker holds the other end of this pipe as well: it is read to its end only when the worker has ended.
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=False)
    assert run.returncode == -signal.SIGKILL
