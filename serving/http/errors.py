"""Errors as OpenAI's clients read them: {"error": {message, type, param, code}} and a status that fits.

Texts are ours; what a library says about a stranger's bytes stays in the log.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from serving.engine.wire import Refused

__all__ = ["ApiError", "add_handlers", "error_body", "error_of_refusal", "error_of_validation"]

TYPES = {404: "not_found_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
REFUSALS = {"engine_died": 500, "internal_error": 500, "engine_unavailable": 503}
MAX_MESSAGE_CHARACTERS = 500

log = logging.getLogger(__name__)


class ApiError(Exception):
    """A refusal with its status, its machine-readable code and, where one is to blame, the field's name."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    def response(self) -> JSONResponse:
        """As it goes over the line."""
        headers = dict(self.headers) if self.headers else None
        return JSONResponse(error_body(self), status_code=self.status, headers=headers)


def error_body(error: ApiError) -> dict[str, dict[str, str | None]]:
    """The JSON object; also the last event of a stream that broke."""
    message = error.message[:MAX_MESSAGE_CHARACTERS]
    kind = TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": error.param, "code": error.code}}


def error_of_refusal(refused: Refused) -> ApiError:
    """What the engine would not or could not answer; without a known code the request is at fault."""
    status = REFUSALS.get(refused.code, 400)
    headers = {"Retry-After": "2"} if status == 503 else None
    return ApiError(status, refused.message, code=refused.code, param=refused.param, headers=headers)


def error_of_validation(error: ValidationError) -> ApiError:
    """The first thing wrong with a body, named by its place: `messages.0.content`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", code="invalid_json")
    place = ".".join(str(part) for part in first["loc"])
    reason = {"extra_forbidden": "this field is not supported here", "missing": "this field is missing"}
    said = reason.get(first["type"], first["msg"].removeprefix("Value error, "))
    message = f"{place}: {said}" if place else said
    return ApiError(400, message, code="invalid_value", param=place or None)


def add_handlers(app: FastAPI) -> None:
    """Give every fault of every route the one shape."""

    @app.exception_handler(ApiError)
    async def refuse(_request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def explain(request: Request, error: HTTPException) -> JSONResponse:
        code = http.HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        message = f"{request.method} {request.url.path}: {code.replace('_', ' ')}"
        return ApiError(error.status_code, message, code=code, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def confess(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return ApiError(500, "the server failed on this request", code="internal_error").response()
