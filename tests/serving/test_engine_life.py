"""The engine's life: it is given back when a client leaves, replaced when it dies, and never left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.serving.live import (
    COMPLETIONS,
    LIMITLESS,
    LiveServer,
    data_url,
    kosmos_serve,
    picture_bytes,
)

ENDLESS = {"max_tokens": LIMITLESS - 500, "min_tokens": LIMITLESS - 500, "stream": True}


def ask(**fields: object) -> dict[str, object]:
    return {"model": "small", "messages": [{"role": "user", "content": "A dog"}], "max_tokens": 2, **fields}


@contextmanager
def endless_answer(server: LiveServer) -> Iterator[Iterator[str]]:
    """A stream that would run for many minutes; its first words have arrived."""
    with server.client.stream("POST", COMPLETIONS, json=ask(**ENDLESS)) as response:
        lines = response.iter_lines()
        while '"content":""' in (line := next(lines)) or not line:
            continue
        yield lines


def wait_until(server: LiveServer, done: Callable[[dict[str, object]], bool]) -> None:
    """Ask for the health until it is as wanted; the test's own time limit ends a wait in vain."""
    while not done(server.get("/health").json()):
        continue


@pytest.fixture(scope="module")
def fresh(checkpoint: Path) -> Iterator[LiveServer]:
    """A server to be treated badly; its environment says more than its flags, and less."""
    environment = {"KOSMOS_MODEL": "elsewhere", "KOSMOS_SERVED_MODEL_NAME": "small,other"}
    with kosmos_serve("--model", str(checkpoint), environment=environment) as live:
        yield live


def test_a_client_that_leaves_a_stream_frees_the_engine(server: LiveServer) -> None:
    with endless_answer(server):
        assert server.get("/health").json()["running"] == 1
    assert server.post(ask()).status_code == 200


def test_a_client_that_leaves_a_plain_request_frees_the_engine(server: LiveServer) -> None:
    with server.post_by_hand(ask(**{**ENDLESS, "stream": False})):
        wait_until(server, lambda health: health["running"] == 1)
    assert server.post(ask()).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_a_beam_search_frees_the_engine(server: LiveServer, stream: bool) -> None:
    with server.post_by_hand(ask(**{**ENDLESS, "num_beams": 2, "stream": stream})) as connection:
        if stream:
            assert connection.recv(12) == b"HTTP/1.1 200", "the engine has begun"
        wait_until(server, lambda health: health["running"] == 1)
    assert server.post(ask()).status_code == 200
    assert server.post(ask(num_beams=2)).status_code == 200


def test_a_full_queue_says_when_to_come_back(server: LiveServer) -> None:
    with ExitStack() as connections:
        with endless_answer(server):
            first, second = (connections.enter_context(server.post_by_hand(ask())) for _ in range(2))
            wait_until(server, lambda health: health["waiting"] == 2)
            response = server.post(ask())
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) > 0
            assert response.json()["error"]["type"] == "rate_limit_error"
            first.close()  # one of them leaves the queue
            wait_until(server, lambda health: health["waiting"] == 1)
        # The endless answer is given up, so the other one gets its turn.
        assert second.recv(12) == b"HTTP/1.1 200"


def test_health_answers_while_the_engine_works(server: LiveServer) -> None:
    with endless_answer(server):
        health = server.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "ready")


@pytest.mark.slow
def test_an_engine_that_is_killed_is_reported_and_replaced(fresh: LiveServer) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(picture_bytes())}}
    question = ask(
        messages=[{"role": "user", "content": [picture, {"type": "text", "text": "A photo of"}]}], max_tokens=8
    )
    before = fresh.post(question).json()["choices"][0]["message"]["content"]
    killed = fresh.engine_process_id()
    with endless_answer(fresh) as lines:
        os.kill(killed, signal.SIGKILL)
        last = [line for line in lines if line][-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("engine_died", "server_error")
    response = fresh.post(question)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_unavailable"
    assert fresh.get("/health").status_code == 503
    assert fresh.get("/health").json()["status"] == "restarting"
    wait_until(fresh, lambda health: health["status"] == "ready")
    assert fresh.engine_process_id() != killed
    assert fresh.post(question).json()["choices"][0]["message"]["content"] == before


@pytest.mark.slow
def test_a_request_that_waits_survives_the_death_of_the_engine(fresh: LiveServer) -> None:
    with endless_answer(fresh), fresh.post_by_hand(ask()) as waiting:
        wait_until(fresh, lambda health: health["waiting"] == 1)
        os.kill(fresh.engine_process_id(), signal.SIGKILL)
        assert waiting.recv(12) == b"HTTP/1.1 200"


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_finishes_its_answer_and_leaves_nothing_behind(checkpoint: Path) -> None:
    with kosmos_serve("--model", str(checkpoint)) as live, _watched(live) as engine:
        body = ask(max_tokens=400, min_tokens=400, stream=True)
        with live.client.stream("POST", COMPLETIONS, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            live.process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert live.process.wait(60) == 0
        assert _has_ended(engine)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_engine_outlives_its_server(checkpoint: Path, how: signal.Signals) -> None:
    with kosmos_serve("--model", str(checkpoint)) as live, _watched(live) as engine:
        # As Ctrl-C in a terminal does, or a kill that lets nobody clean up.
        live.process.send_signal(how)
        assert live.process.wait(60) == (0 if how == signal.SIGINT else -signal.SIGKILL)
        assert _has_ended(engine)


@contextmanager
def _watched(live: LiveServer) -> Iterator[int]:
    """A descriptor of the engine process, which can be read once the process has ended."""
    engine = os.pidfd_open(live.engine_process_id())
    try:
        yield engine
    finally:
        os.close(engine)


def _has_ended(engine: int) -> bool:
    return bool(select.select([engine], [], [], 60)[0])


def kosmos(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kosmos.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = kosmos("serve", "--port", port)
        by_environment = kosmos("serve", KOSMOS_PORT=port)
    for ended in (done, by_environment):
        assert ended.returncode == 1
        last = ended.stderr.strip().splitlines()[-1]
        assert last == f"kosmos serve: port {port} on 127.0.0.1 is already in use; choose another with --port"


@pytest.mark.slow
def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = kosmos("serve", "--port", "0", "--model", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "nothing" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--port", "70000"), ("--dtype", "int3"), ("--max-waiting", "-1"), ("--max-beam-tokens", "many")],
)
def test_a_flag_and_its_variable_are_checked_alike(flag: str, value: str) -> None:
    variable = "KOSMOS_" + flag.removeprefix("--").replace("-", "_").upper()
    for done in (kosmos("serve", f"{flag}={value}"), kosmos("serve", **{variable: value})):
        assert done.returncode == 2
        assert flag in done.stderr


@pytest.mark.slow
def test_a_flag_wins_over_its_variable_and_the_variable_over_the_default(fresh: LiveServer) -> None:
    assert [model["id"] for model in fresh.get("/v1/models").json()["data"]] == ["small", "other"]
    assert fresh.post(ask(model="other")).json()["model"] == "other"


def test_the_http_process_never_imports_torch() -> None:
    code = """
import sys
from serving.engine.settings import EngineSettings
from serving.engine.supervisor import Engine
from serving.http.app import create_app
from serving.http.server import serve
from serving.http.settings import ServerSettings
settings = ServerSettings(engine=EngineSettings(model="tiny"))
create_app(Engine(settings.engine), settings)
heavy = {"torch", "torchvision", "timm", "open_clip", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_running_http_process_has_no_torch_in_its_memory(server: LiveServer) -> None:
    assert server.post(ask()).status_code == 200
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "libtorch" in Path(f"/proc/{server.engine_process_id()}/maps").read_text()
