"""Link: one engine process and the pipe to it. Two threads carry frames, so that no side's pace stops the event loop.

Knows nothing of requests or states: it starts, sends, reports what comes back, and says when the process is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable
from typing import cast

from serving.engine.process import run_engine
from serving.engine.settings import EngineSettings
from serving.engine.wire import FromEngine, Stop, ToEngine, receive, send

__all__ = ["Link"]

STOP_SECONDS = 3.0  # an engine that is loading or generating may take no notice; then it is killed


class Link:
    """A started engine process. `on_record` and `on_end` are called from a thread of the link."""

    def __init__(
        self, settings: EngineSettings, *, on_record: Callable[[FromEngine], object], on_end: Callable[[], object]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, self._far_end = context.Pipe()
        # daemon: should this process end by an unhandled error, the engine is not left behind
        self.process = context.Process(
            target=run_engine, args=(self._far_end, settings), name="kosmos-engine", daemon=True
        )
        self._on_record, self._on_end = on_record, on_end
        self._outbox: queue.SimpleQueue[ToEngine | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)

    def start(self) -> None:
        """Start the process. Ctrl-C reaches the whole group, so the child is born with it blocked and stays deaf."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        # Only the child may hold its end, or its death would not be seen as the end of the pipe.
        self._far_end.close()
        self._reader.start()
        self._writer.start()

    def send(self, record: ToEngine) -> None:
        """Queue a record; never waits."""
        self._outbox.put(record)

    def close(self) -> None:
        """End the process: ask it to leave, then kill it. Waits; call it off the event loop."""
        self._outbox.put(Stop())
        self._outbox.put(None)
        self._writer.join(STOP_SECONDS)
        self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._reader.join(STOP_SECONDS)

    def exit_reason(self) -> str:
        """How the process ended, in words."""
        self.process.join(STOP_SECONDS)
        code = self.process.exitcode
        if code is None:
            return "it closed its pipe but has not ended"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _read(self) -> None:
        try:
            while True:
                self._on_record(cast(FromEngine, receive(self._connection)))
        except (EOFError, OSError):
            self._tell_end()
        finally:
            self._outbox.put(None)

    def _tell_end(self) -> None:
        # A closed event loop: this process is ending and nobody is left to tell.
        with contextlib.suppress(RuntimeError):
            self._on_end()

    def _write(self) -> None:
        try:
            while (record := self._outbox.get()) is not None:
                send(self._connection, record)
        except OSError:
            return  # the reader sees the same end and reports it
