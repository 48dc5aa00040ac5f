"""The server as a program: takes the port, runs the app, says when it is ready, leaves in order. No torch here."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from serving.engine.supervisor import Engine
from serving.http.app import create_app
from serving.http.settings import ServerSettings

__all__ = ["serve"]


def serve(settings: ServerSettings, *, when_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running answers finish and end the engine.

    Args:
        when_ready: called with the address once the model is loaded.
    Raises: OSError if the address cannot be taken; ValueError if the model cannot be loaded. One sentence each.
    """
    listener = _listen(settings.host, settings.port)
    engine = Engine(settings.engine)
    config = uvicorn.Config(
        create_app(engine, settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
        timeout_keep_alive=30,
    )
    with listener, _signals_end_quietly():
        asyncio.run(_run(uvicorn.Server(config), engine, listener, when_ready))
    if engine.failure and engine.model is None:
        raise ValueError(engine.failure)


async def _run(
    server: uvicorn.Server, engine: Engine, listener: socket.socket, when_ready: Callable[[str], None]
) -> None:
    async def announce() -> None:
        if await engine.settled():
            when_ready(_address(listener))
        else:
            server.should_exit = True

    announcement = asyncio.create_task(announce())
    await server.serve(sockets=[listener])
    announcement.cancel()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} on {host} is already in use; choose another with --port") from None
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror}; choose others") from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Uvicorn sends itself the signal again when it has left in order; by then there is nothing more to do."""
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, lambda *_: None) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)
