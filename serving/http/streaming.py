"""Answers while they arrive: server-sent events, and giving the engine back when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.engine.supervisor import Ticket
from serving.engine.wire import Answered, Refused, Said, TokenScore
from serving.http.answers import Completion, event
from serving.http.errors import ApiError, error_body, error_of_refusal

__all__ = ["AnswerStream", "unless_gone", "whole_answer"]

PING_SECONDS = 15.0
CLIENT_GONE = 499  # nobody reads it; proxies' logs call it that
Result = TypeVar("Result")


async def unless_gone(request: Request, waited_for: Coroutine[None, None, Result]) -> Result:
    """Wait for a result, but only as long as the client is there.

    The body must have been read. Raises: ApiError 499 when the client is gone.
    """
    work = asyncio.ensure_future(waited_for)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ApiError(CLIENT_GONE, "the client went away", code="client_gone")
    finally:
        work.cancel()
        gone.cancel()


async def whole_answer(ticket: Ticket) -> Answered:
    """The finished answer, with the scores of all its tokens. Raises: ApiError when the engine refuses or dies."""
    scores: list[TokenScore] = []
    while True:
        event_ = await ticket.next()
        if isinstance(event_, Said):
            scores += event_.scores
        if isinstance(event_, Answered):
            return replace(event_, scores=(*scores, *event_.scores))
        if isinstance(event_, Refused):
            raise error_of_refusal(event_)


class AnswerStream(StreamingResponse):
    """Server-sent chunks of one answer; however it ends, the ticket is closed."""

    def __init__(self, ticket: Ticket, completion: Completion) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_chunks(ticket, completion), media_type="text/event-stream", headers=headers)
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; leaves early when the client does."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.close()


async def _chunks(ticket: Ticket, completion: Completion) -> AsyncIterator[bytes]:
    yield completion.first()
    while True:
        try:
            event_ = await asyncio.wait_for(ticket.next(), PING_SECONDS)
        except TimeoutError:
            yield b": ping\n\n"
            continue
        if isinstance(event_, Said):
            yield completion.words(event_)
        elif isinstance(event_, Answered):
            yield completion.last(event_)
            return
        elif isinstance(event_, Refused):
            # The status is long sent; an error in the stream and no end mark tell the client that this is no answer.
            yield event(error_body(error_of_refusal(event_)))
            return


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
