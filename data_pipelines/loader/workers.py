"""Workers: lanes in processes of their own; batches still come in the order of the deals, however fast each one is.

A worker has whole lanes and a queue of its own, so nothing has to be sorted; the state of a lane travels with its
batch, so what workers have made ahead is never counted as used. A worker that dies ends the run with a sentence.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from data_pipelines.loader.dealing import Dealer
from data_pipelines.loader.producing import Produced, Producer

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext
    from multiprocessing.process import BaseProcess
    from multiprocessing.queues import Queue

__all__ = ["Workers"]

BatchT = TypeVar("BatchT")
PATIENCE_S = 2.0  # between looks at whether the other side still lives


class Workers(Generic[BatchT]):
    """Processes that produce the deals of one rank ahead of time. Use in a `with` block, or `close` it."""

    def __init__(self, producer: Producer[BatchT], dealer: Dealer, *, prefetch: int) -> None:
        """
        Args:
            prefetch: finished batches that may wait in each worker's queue.
        """
        context = _context()
        self._dealer = dealer
        self._queues: list[Queue[Produced[BatchT] | _Failure]] = []
        self._processes: list[BaseProcess] = []
        for worker in range(dealer.workers):
            channel: Queue[Produced[BatchT] | _Failure] = context.Queue(prefetch)
            arguments = (producer, dealer, worker, channel, os.getpid())
            process = context.Process(target=_work, args=arguments, daemon=True, name=f"loader-{worker}")
            process.start()
            self._queues.append(channel)
            self._processes.append(process)

    def __enter__(self) -> Workers[BatchT]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Produced[BatchT]]:
        for deal in self._dealer.deals():
            yield self._take(self._dealer.worker_of(deal.lane))

    def close(self) -> None:
        """End the processes; what they made ahead is forgotten."""
        for process in self._processes:
            process.terminate()
        for process, channel in zip(self._processes, self._queues, strict=True):
            process.join()
            channel.close()
        self._processes, self._queues = [], []

    def _take(self, worker: int) -> Produced[BatchT]:
        while True:
            try:
                found = self._queues[worker].get(timeout=PATIENCE_S)
            except queue.Empty:
                process = self._processes[worker]
                if process.is_alive():
                    continue
                raise OSError(
                    f"loader worker {worker} ended with code {process.exitcode} (out of memory?); start again from the"
                    " last checkpoint, with fewer workers or a smaller prefetch"
                ) from None
            if isinstance(found, _Failure):
                raise found.error()
            return found


@dataclass(frozen=True)
class _Failure:
    """An error of a worker as it travels: itself where it pickles, and always its words and its traceback."""

    pickled: bytes | None
    words: str
    trace: str

    @staticmethod
    def of(error: Exception) -> _Failure:
        trace = "".join(traceback.format_exception(error))
        words = "".join(traceback.format_exception_only(error)).strip()
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)  # noqa: S301  (our own bytes: not every error that pickles comes back)
        except Exception:
            return _Failure(None, words, trace)
        return _Failure(pickled, words, trace)

    def error(self) -> Exception:
        """What to raise in the parent."""
        found = RuntimeError(self.words) if self.pickled is None else pickle.loads(self.pickled)  # noqa: S301
        assert isinstance(found, Exception)
        found.add_note(f"in a worker of the loader:\n{self.trace}")
        return found


def _context() -> SpawnContext:
    """Processes and queues; those of torch, which hand tensors over in shared memory, where there are tensors."""
    if "torch" in sys.modules:
        from torch.multiprocessing import get_context

        context: SpawnContext = get_context("spawn")
        return context
    return multiprocessing.get_context("spawn")


def _work(
    producer: Producer[BatchT],
    dealer: Dealer,
    worker: int,
    channel: Queue[Produced[BatchT] | _Failure],
    parent: int,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the workers, without a word
    channel.cancel_join_thread()  # nobody empties the pipe of a parent that was killed
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    try:
        for deal in dealer.deals_of(worker):
            if not _put(channel.put, producer.produce(deal), parent):
                return
    except Exception as error:  # told to the parent, which raises it
        _put(channel.put, _Failure.of(error), parent)
    # Batches that wait in the queue may lie in memory that goes with this process (tensors of torch).
    while os.getppid() == parent:
        time.sleep(PATIENCE_S)


def _put(put: Callable[..., None], item: object, parent: int) -> bool:
    """Hand over, however long the parent takes. Returns: False if there is no parent any more."""
    while os.getppid() == parent:
        try:
            put(item, timeout=PATIENCE_S)
            return True
        except queue.Full:
            continue
    return False
