"""The engine process: loads the model, answers one request after the other, drops an answer nobody waits for.

Started by a Link with its end of the pipe. It ends when told to, and at once when the process that started it is gone:
no engine is ever left behind. One bad request never ends it. Imports torch only inside its own process.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from serving.engine.settings import EngineSettings
from serving.engine.wire import Ask, Cancel, LoadFailed, Refused, receive, send

if TYPE_CHECKING:
    from kosmos.pretrained import Kosmos

__all__ = ["run_engine"]

log = logging.getLogger(__name__)


def run_engine(connection: Connection, settings: EngineSettings) -> None:
    """The life of the process, from loading to the end."""
    # The supervisor decides when to leave; Ctrl-C in a terminal reaches both processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    inbox = _Inbox(connection)
    try:
        model = _load(settings)
    except Exception as error:
        if not isinstance(error, ValueError | OSError):
            log.exception("loading %r failed", settings.model)
        send(connection, LoadFailed(message=str(error) or type(error).__name__))
        connection.close()
        return
    _answer_all(model, inbox, connection, settings)


def _load(settings: EngineSettings) -> Kosmos:
    import torch

    from kosmos.chat import Turn, document_of_chat
    from kosmos.pretrained import load
    from text.document import Text

    torch.set_flush_denormal(True)
    model = load(settings.model, device=settings.device, dtype=settings.dtype, quantize=settings.quantize)
    # A chat template that does not work is found now, not by the first visitor.
    model.encode(document_of_chat([Turn(role="user", content=(Text("A photo of"),))], model.chat_template))
    return model


def _answer_all(model: Kosmos, inbox: _Inbox, connection: Connection, settings: EngineSettings) -> None:
    from serving.engine.answering import answer, describe

    send(connection, describe(model))
    while True:
        ask = inbox.next()
        try:
            cancelled = partial(inbox.is_cancelled, ask)
            for event in answer(model, ask, cancelled=cancelled, max_beam_tokens=settings.max_beam_tokens):
                send(connection, event)
        except BrokenPipeError:
            return
        except Exception:
            # The fence: whatever one request breaks, the next one finds a working engine. Details stay in the log.
            log.exception("request %d failed", ask.request)
            send(
                connection,
                Refused(request=ask.request, code="internal_error", message="the engine failed on this request"),
            )
        inbox.done(ask)


class _Inbox:
    """What the supervisor sent, read by a thread so that a cancel is seen while the model works."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asks: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._open: set[int] = set()
        self._cancelled: set[int] = set()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Ask:
        return self._asks.get()

    def is_cancelled(self, ask: Ask) -> bool:
        return ask.request in self._cancelled

    def done(self, ask: Ask) -> None:
        self._open.discard(ask.request)
        self._cancelled.discard(ask.request)

    def _read(self) -> None:
        try:
            while True:
                record = receive(self._connection)
                if isinstance(record, Ask):
                    self._open.add(record.request)
                    self._asks.put(record)
                elif isinstance(record, Cancel) and record.request in self._open:
                    self._cancelled.add(record.request)
                elif not isinstance(record, Cancel):
                    break
        except (EOFError, OSError):
            log.debug("the server is gone")
        # Nothing here is worth saving, and the main thread may be deep inside a forward pass.
        os._exit(0)
