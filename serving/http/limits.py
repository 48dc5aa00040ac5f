"""Limits before work: a body that is too large is refused while it arrives, before anything reads it as JSON."""

from __future__ import annotations

from starlette.requests import Request

from serving.http.errors import ApiError

__all__ = ["read_body"]


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The body of a JSON request.

    JSON alone is taken: a page elsewhere cannot make a visitor's browser post it here without asking first (CORS).

    Raises: ApiError 413 when it is announced or turns out to be larger than `max_bytes`; 415 when it is not JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send JSON, with Content-Type: application/json", code="unsupported_media_type")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> ApiError:
    message = f"the body has more than {max_bytes} bytes; send fewer or smaller pictures"
    # The rest of the body is not read, so the connection cannot be used again.
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})
