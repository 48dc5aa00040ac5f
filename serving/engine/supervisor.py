"""Supervisor: starts the engine process, hands it requests one by one, notices its death and starts it again.

Lives in the HTTP process and on its event loop, so its state needs no locks; two threads of a link only carry frames.
Requests wait here, not in the engine: a waiting request survives the engine's death, one that had begun gets an error.
Knows nothing of HTTP. No torch here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kosmos.options import GenerationOptions
from serving.engine.link import Link
from serving.engine.settings import EngineSettings
from serving.engine.wire import Answered, Ask, Begun, Cancel, FromEngine, LoadFailed, Ready, Refused, Said
from text.document import Document

__all__ = ["Engine", "EngineState", "EngineUnavailable", "Event", "Load", "QueueFull", "Ticket"]

EngineState: TypeAlias = Literal["starting", "ready", "restarting", "failed", "stopped"]
Event: TypeAlias = Begun | Said | Answered | Refused
ENGINE_DIED = "engine_died"
MAX_RUNNING = 1  # the engine answers one request at a time; a batching engine takes more
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0

log = logging.getLogger(__name__)


class EngineUnavailable(Exception):
    """The engine is not ready: loading, restarting, failed or stopped."""


class QueueFull(Exception):
    """As many requests wait as are allowed to."""


class Ticket:
    """One request's place: events arrive in order, the last is Answered or Refused. Close it when nobody listens."""

    def __init__(self, engine: Engine, ask: Ask) -> None:
        self.ask = ask
        self._engine = engine
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """The next event, as soon as it comes."""
        return await self._events.get()

    def close(self) -> None:
        """Give the place up; the engine stops working on it. Harmless when the answer is complete."""
        self._engine.cancel(self.ask.request)

    def put(self, event: Event) -> None:
        """Called by the engine."""
        self._events.put_nowait(event)


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many requests are being answered and how many wait."""

    running: int
    waiting: int


class Engine:
    """The parent's side of the engine process. Use it from one event loop: `start`, `submit`, `stop`."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.state: EngineState = "stopped"
        self.model: Ready | None = None
        self.failure: str | None = None
        self._link: Link | None = None
        self._requests = 0
        self._preparing = 0
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, Ticket] = {}
        self._failed_starts = 0
        self._restart: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()

    @property
    def load(self) -> Load:
        """What the engine has to do now."""
        return Load(running=len(self._running), waiting=len(self._waiting))

    @property
    def process_id(self) -> int | None:
        """Of the engine process, while there is one."""
        return self._link.process.pid if self._link else None

    def start(self) -> None:
        """Start the engine process; `settled` tells how that went."""
        self._launch("starting")

    async def settled(self) -> bool:
        """Wait until the model is loaded (True) or the engine has failed for good (False)."""
        await self._settled.wait()
        return self.state == "ready"

    def described(self) -> Ready:
        """What the engine said of its model. Raises: EngineUnavailable before that."""
        if self.model is None:
            raise EngineUnavailable(self.state)
        return self.model

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while a request is prepared, so that no more are prepared than may wait.

        Raises: EngineUnavailable, QueueFull.
        """
        self._check_room()
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1

    def submit(self, document: Document, options: GenerationOptions, *, shorten: bool) -> Ticket:
        """Queue a prompt whose pictures are opened; `shorten` as in Ask.

        Raises: EngineUnavailable, QueueFull.
        """
        self._check_room()
        self._requests += 1
        ticket = Ticket(self, Ask(request=self._requests, document=document, options=options, shorten=shorten))
        self._waiting.append(ticket)
        self._dispatch()
        return ticket

    def cancel(self, request: int) -> None:
        """Forget a request, waiting or running. A running one keeps the engine until the engine says it has stopped."""
        self._waiting = deque(ticket for ticket in self._waiting if ticket.ask.request != request)
        if request in self._running and self._link:
            self._link.send(Cancel(request=request))

    async def stop(self) -> None:
        """End the engine process; whoever still waits gets an error."""
        self.state = "stopped"
        if self._restart:
            self._restart.cancel()
        link, self._link = self._link, None
        if link:
            await asyncio.to_thread(link.close)
        self._refuse([*self._running.values(), *self._waiting], "engine_unavailable", "the server is shutting down")
        self._running.clear()
        self._waiting.clear()
        self._settled.set()

    def _launch(self, state: EngineState) -> None:
        self.state = state
        loop = asyncio.get_running_loop()
        link = Link(
            self.settings,
            on_record=lambda record: loop.call_soon_threadsafe(self._arrived, link, record),
            on_end=lambda: loop.call_soon_threadsafe(self._died, link),
        )
        self._link = link
        link.start()

    def _check_room(self) -> None:
        if self.state != "ready":
            raise EngineUnavailable(self.state)
        # A free engine needs no queue, so even a limit of 0 lets one request through.
        if len(self._running) + len(self._waiting) + self._preparing >= MAX_RUNNING + self.settings.max_waiting:
            raise QueueFull

    def _dispatch(self) -> None:
        while self.state == "ready" and self._link and self._waiting and len(self._running) < MAX_RUNNING:
            ticket = self._waiting.popleft()
            self._running[ticket.ask.request] = ticket
            self._link.send(ticket.ask)

    def _arrived(self, link: Link, record: FromEngine) -> None:
        if link is not self._link:
            return
        if isinstance(record, Ready):
            self.model, self.state, self.failure = record, "ready", None
            self._failed_starts = 0
            self._settled.set()
        elif isinstance(record, LoadFailed):
            self.failure = record.message
        else:
            self._tell(record)
        self._dispatch()

    def _tell(self, event: Event) -> None:
        finished = isinstance(event, Answered | Refused)
        ticket = self._running.pop(event.request, None) if finished else self._running.get(event.request)
        if ticket:
            ticket.put(event)

    def _died(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link = None
        was_ready = self.state == "ready"
        log.error("the engine ended unasked: %s", self.failure or link.exit_reason())
        self._refuse(list(self._running.values()), ENGINE_DIED, "the engine died while it answered; please ask again")
        self._running.clear()
        if self.model is None:
            self.failure = self.failure or f"the engine ended while it loaded the model ({link.exit_reason()})"
            self.state = "failed"
            self._settled.set()
            return
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        pause = min(FIRST_PAUSE_SECONDS * 2**self._failed_starts, LONGEST_PAUSE_SECONDS)
        self.state = "restarting"
        self._restart = asyncio.get_running_loop().call_later(pause, self._launch, "restarting")

    @staticmethod
    def _refuse(tickets: list[Ticket], code: str, message: str) -> None:
        for ticket in tickets:
            ticket.put(Refused(request=ticket.ask.request, code=code, message=message))
