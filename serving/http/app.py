"""The routes: chat completions, models, health and the page. One FastAPI app in front of one Engine.

Work on strangers' bytes is done in worker threads; the event loop only passes messages. No torch here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from serving.engine.supervisor import Engine, EngineUnavailable, QueueFull, Ticket
from serving.engine.wire import Begun, Refused
from serving.http.answers import Completion
from serving.http.errors import ApiError, add_handlers, error_of_refusal
from serving.http.limits import read_body
from serving.http.page import add_page
from serving.http.questions import read_question
from serving.http.schemas import ChatRequest
from serving.http.settings import ServerSettings
from serving.http.streaming import AnswerStream, unless_gone, whole_answer

__all__ = ["create_app"]

# Two at a time: a large photograph takes 200 MB while it is decoded.
MEDIA_THREADS = 2
BODY_SCHEMA = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}


def create_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """The app; it starts the engine when it starts, and stops it when it stops."""
    media = ThreadPoolExecutor(MEDIA_THREADS, thread_name_prefix="media")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await engine.stop()
            media.shutdown(wait=False, cancel_futures=True)

    # FastAPI's own documentation pages load scripts from elsewhere; the plain schema stays at /openapi.json.
    app = FastAPI(title="Kosmos", lifespan=lifespan, docs_url=None, redoc_url=None)
    add_handlers(app)
    add_page(app)
    _add_state(app, engine, settings)

    @app.post("/v1/chat/completions", openapi_extra=BODY_SCHEMA)
    async def complete(request: Request) -> Response:
        """Continue a chat; OpenAI's body and answer, plain or streamed."""
        body = await read_body(request, max_bytes=settings.max_body_bytes)
        with _honest(engine), engine.place():
            most = settings.engine.max_beam_tokens
            read = partial(read_question, body, served=settings.names, model=engine.described(), max_beam_tokens=most)
            question = await asyncio.get_running_loop().run_in_executor(media, read)
        shorten = question.request.length is None
        with _honest(engine):
            ticket = engine.submit(question.document, question.request.options(), shorten=shorten)
        return await _answer(request, question.request, ticket)

    return app


def _add_state(app: FastAPI, engine: Engine, settings: ServerSettings) -> None:
    created = int(time.time())

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        """The one model, under each of its names."""
        model = engine.model
        about = {
            "object": "model",
            "created": created,
            "owned_by": "kosmos",
            "root": settings.names[0],
            "parent": None,
            "max_model_len": model.context_length if model else None,
            "grounding": model.grounding if model else None,
        }
        return JSONResponse({"object": "list", "data": [{"id": name, **about} for name in settings.names]})

    @app.get("/health")
    async def health() -> JSONResponse:
        """200 when questions are answered, 503 with the reason's state when not."""
        ready = engine.state == "ready"
        load = engine.load
        state = {"status": engine.state, "model": settings.names[0], "running": load.running, "waiting": load.waiting}
        return JSONResponse(state, status_code=200 if ready else 503, headers={"Cache-Control": "no-store"})


@contextmanager
def _honest(engine: Engine) -> Iterator[None]:
    """Turn the engine's refusals into statuses."""
    try:
        yield
    except EngineUnavailable:
        raise _unavailable(engine) from None
    except QueueFull:
        message = "too many requests are waiting; try again in a few seconds"
        raise ApiError(429, message, code="queue_full", headers={"Retry-After": "2"}) from None


def _unavailable(engine: Engine) -> ApiError:
    states = {
        "starting": "the model is still loading; try again in a few seconds",
        "restarting": "the engine died and is being restarted; try again in a few seconds",
        "failed": "the model could not be loaded",
        "stopped": "the server is shutting down",
    }
    message = states.get(engine.state, "the engine is not ready")
    return ApiError(503, message, code="engine_unavailable", headers={"Retry-After": "2"})


async def _answer(request: Request, asked: ChatRequest, ticket: Ticket) -> Response:
    """The response, once the engine has taken the prompt: until then every refusal can still have its own status."""
    streaming = False
    try:
        begun = await unless_gone(request, ticket.next())
        if isinstance(begun, Refused):
            raise error_of_refusal(begun)
        completion = Completion(
            model=asked.model,
            prompt_tokens=begun.prompt_tokens if isinstance(begun, Begun) else 0,
            logprobs=asked.logprobs,
            usage=asked.stream_options is not None and asked.stream_options.include_usage,
        )
        if asked.stream:
            streaming = True
            return AnswerStream(ticket, completion)
        answered = await unless_gone(request, whole_answer(ticket))
        return JSONResponse(completion.whole(answered))
    finally:
        if not streaming:  # a stream closes its ticket itself
            ticket.close()
