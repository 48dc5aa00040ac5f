"""Hostile and mistaken input: an error of OpenAI's shape with a status that fits, and a server that goes on."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.serving.live import COMPLETIONS, LIMITLESS, LiveServer, data_url, picture_bytes

Json = dict[str, Any]


def error_of(response: httpx.Response, status: int) -> dict[str, str | None]:
    """The error, once it is seen to have the one shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, str | None] = body["error"]
    assert isinstance(error["message"], str)
    assert 0 < len(error["message"]) <= 500
    assert "Traceback" not in error["message"]
    assert "0x" not in error["message"], "no addresses of objects"
    return error


def ask(**fields: object) -> Json:
    return {"model": "small", "messages": [{"role": "user", "content": "A dog"}], "max_tokens": 2, **fields}


def show(url: object) -> Json:
    return ask(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])


@pytest.fixture(autouse=True)
def _still_answers(server: LiveServer) -> Any:
    """After whatever a test did."""
    yield
    assert server.post(ask()).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"words"', b"\xff\xfe", b'{"model": "sm\xff"}', b"[" * 100_000, b'{"a": 1e99999}'],
)
def test_a_body_that_is_no_request_is_refused(server: LiveServer, body: bytes) -> None:
    assert error_of(server.post_raw(body), 400)["type"] == "invalid_request_error"


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_a_form_of_another_page_is_refused(server: LiveServer, kind: str) -> None:
    response = server.post_raw(json.dumps(ask()).encode(), Content_Type=kind, Origin="https://elsewhere.example")
    error_of(response, 415)
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": "A dog"}]}, "model"),
        ({"model": "small"}, "messages"),
        (ask(messages=[]), "messages"),
        (ask(messages="A dog"), "messages"),
        (ask(messages=[{"role": "user", "content": ""}]), "messages"),
        (ask(messages=[{"role": "tool", "content": "x"}]), "messages.0.role"),
        (ask(messages=[{"role": "user", "content": 3}]), "messages.0.content"),
        (ask(messages=[{"role": "user", "content": [{"type": "video"}]}]), "messages.0.content.0"),
        (ask(messages=[{"role": "user", "content": "x"}] * 257), "messages"),
        (ask(messages=[{"role": "user", "content": "x" * 200_001}]), "messages"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(max_tokens="2"), "max_tokens"),
        (ask(max_tokens=2.5), "max_tokens"),
        (ask(temperature="hot"), "temperature"),
        (ask(n=2), "n"),
        (ask(n=10**9), "n"),
        (ask(seed=-1), "seed"),
        (ask(seed=2**64), "seed"),
        (ask(top_logprobs=21, logprobs=True), "top_logprobs"),
        (ask(tools=[{"type": "function"}]), "tools"),
        (ask(presence_penalty=1.0), "presence_penalty"),
        (ask(response_format={"type": "json_object"}), "response_format.type"),
        (ask(best_of=3), "best_of"),
        (ask(prompt_embeds="x"), "prompt_embeds"),
        (ask(chat_template="{{ 1 }}"), "chat_template"),
    ],
)
def test_a_field_that_is_wrong_or_unknown_is_named(server: LiveServer, body: Json, param: str) -> None:
    error = error_of(server.post(body), 400)
    assert error["param"] is not None
    assert error["param"].startswith(param)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"num_beams": 10_000}, "num_beams"),
        ({"num_beams": 2, "temperature": 1}, "num_beams"),
        ({"min_tokens": 5}, "min_new_tokens"),
        ({"stop": ["x"] * 10_000}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * 10_000}, "stop"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream"),
    ],
)
def test_an_option_out_of_range_is_explained(server: LiveServer, fields: Json, word: str) -> None:
    assert word in str(error_of(server.post(ask(**fields)), 400)["message"])


def test_a_number_that_is_none_is_refused(server: LiveServer) -> None:
    for value in ("NaN", "Infinity", "-Infinity"):
        content = json.dumps(ask()).replace('"max_tokens"', f'"temperature": {value}, "max_tokens"').encode()
        error_of(server.post_raw(content), 400)


def test_fields_that_ask_for_nothing_are_taken(server: LiveServer) -> None:
    nothing = {"n": 1, "logit_bias": {}, "tools": [], "presence_penalty": 0, "user": "me", "stop": None, "seed": None}
    assert server.post(ask(**nothing)).status_code == 200


def test_an_unknown_model_is_not_found(server: LiveServer) -> None:
    error = error_of(server.post(ask(model="gpt-9")), 404)
    assert error["code"] == "model_not_found"
    assert "small" in str(error["message"])


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_another_method_is_not_allowed(server: LiveServer, method: str) -> None:
    error_of(server.client.request(method, COMPLETIONS), 405)


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/app.js.map", "/%2e%2e/pyproject.toml", "/docs", "/web/app.js", "/%00"]
)
def test_another_path_is_not_found(server: LiveServer, path: str) -> None:
    error_of(server.get(path), 404)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.org/cat.png",
        "HTTP://[::1]/x.png",
        "file:///etc/passwd",
        "ftp://example.org/cat.png",
        "/etc/passwd",
        "",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/png,raw",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,QUJ",
        "data:image/png;base64,é",
        "data:image/png;base64,",
        "data:" + "a" * 5000,
    ],
)
def test_an_address_that_is_no_data_url_is_refused(server: LiveServer, url: str) -> None:
    error = error_of(server.post(show(url)), 400)
    assert error["code"] == "invalid_image"
    assert error["param"] == "messages.0.content.0.image_url"


def _bomb(side: int) -> bytes:
    """A PNG that says it has side x side pixels, in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def _tiff() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"just words, whatever the name says", "PNG"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "PNG"),
        (b"%PDF-1.7", "PNG"),
        (_tiff(), "PNG"),
        (_bomb(50_000), "pixels"),
        (picture_bytes("PNG")[:-40], "cut short"),
        (picture_bytes("JPEG")[:300], "damaged"),
        (picture_bytes(width=1, height=9), "pixels"),
    ],
)
def test_bytes_that_are_no_picture_are_refused(server: LiveServer, content: bytes, word: str) -> None:
    error = error_of(server.post(show(data_url(content))), 400)
    assert error["code"] == "invalid_image"
    assert word in str(error["message"])


def test_too_many_pictures_are_refused(server: LiveServer) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(picture_bytes())}}
    error = error_of(server.post(ask(messages=[{"role": "user", "content": [part] * 17}])), 400)
    assert error["code"] == "too_many_images"


def test_a_body_too_large_is_refused_before_it_is_read(server: LiveServer) -> None:
    with server.post_by_hand(ask(), Content_Length=str(10**12)) as connection:
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"request_too_large" in answer


def test_a_body_that_grows_too_large_is_refused_while_it_arrives(server: LiveServer) -> None:
    pieces = (b" " * 2**20 for _ in range(40))
    assert error_of(server.post_raw(pieces), 413)["code"] == "request_too_large"


def test_more_tokens_than_the_context_holds_are_refused(server: LiveServer) -> None:
    for stream in (False, True):
        error = error_of(server.post(ask(max_tokens=LIMITLESS, stream=stream)), 400)
        assert error["code"] == "context_length_exceeded"
        assert error["param"] == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("num_beams", "max_tokens"), [(64, LIMITLESS - 500), (4, LIMITLESS // 2 - 10)], ids=["by far", "with the prompt"]
)
def test_a_beam_search_too_large_is_refused(server: LiveServer, num_beams: int, max_tokens: int, stream: bool) -> None:
    words = [{"role": "user", "content": "A dog and a man " * 4}]
    body = ask(messages=words, num_beams=num_beams, max_tokens=max_tokens, stream=stream, stop="x")
    error = error_of(server.post(body), 400)
    assert (error["code"], error["param"]) == ("too_many_beams", "num_beams")
    assert str(2 * LIMITLESS) in str(error["message"])


def test_a_prompt_longer_than_the_context_is_refused(server: LiveServer) -> None:
    error = error_of(server.post(ask(messages=[{"role": "user", "content": "a " * (LIMITLESS + 1)}])), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_strange_characters_are_words(server: LiveServer) -> None:
    words = "\u0000 \ue0000\ue001 \U0001f600 {{ 7*7 }} <s> </s> <image> <patch_index_0001> \u202e"
    assert server.post(ask(messages=[{"role": "user", "content": words}])).status_code == 200
