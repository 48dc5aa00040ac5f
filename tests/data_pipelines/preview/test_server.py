"""The server of the preview gives documents by number and match, pictures small, and never a file."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipelines.preview.server import PreviewServer
from data_pipelines.shard import ShardWriter
from data_pipelines.shard_set import ShardSet
from tests.vision.pictures import drawn, encoded
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer

DOCUMENTS = 50


@pytest.fixture
def server(tmp_path: Path, small_tokenizer: Tokenizer) -> Iterator[PreviewServer]:
    """50 documents: every fifth has a picture, every tenth was dropped, the last is broken."""
    with ShardWriter(tmp_path / "a.tar") as writer:
        for number in range(DOCUMENTS - 1):
            picture = [Image(encoded(drawn(), "PNG"))] if number % 5 == 0 else []
            meta = {"source": f"site {number % 2}"} | ({"dropped": "too few words"} if number % 10 == 0 else {})
            words = "a Brown dog" if number == 33 else f"words {number}"
            writer.write(f"key-{number}", Document((*picture, Text(words)), meta))
        writer.write_parts("broken", {"json": b"{"})
    with ShardSet([str(tmp_path / "a.tar")]) as samples, PreviewServer(samples, small_tokenizer, title="t") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: PreviewServer, target: str, host: str | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", target, headers={"Host": host} if host else {})
    return connection.getresponse()


def found(server: PreviewServer, query: str) -> dict[str, object]:
    answer: dict[str, object] = json.loads(get(server, f"/documents?{query}").read())
    return answer


def keys(server: PreviewServer, query: str) -> list[str]:
    documents = found(server, query)["documents"]
    assert isinstance(documents, list)
    return [document["key"] for document in documents]


def test_documents_come_in_batches_that_join_without_gap(server: PreviewServer) -> None:
    seen, after = list[str](), 0
    while True:
        answer = found(server, f"after={after}")
        assert isinstance(answer["documents"], list)
        seen += [document["key"] for document in answer["documents"]]
        if answer["next"] is None:
            break
        assert isinstance(answer["next"], int)
        after = answer["next"]
    assert seen == [f"key-{number}" for number in range(DOCUMENTS - 1)] + ["broken"]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("words=BROWN+DOG", ["key-33"]),
        ("words=key-41", ["key-41"]),
        ("pictures=1&source=site+1", [f"key-{number}" for number in range(5, 50, 10)]),
        ("fate=too+few+words", [f"key-{number}" for number in range(0, 50, 10)]),
        ("fate=dropped&words=words+20", ["key-20"]),
        ("fate=broken", ["broken"]),
        ("fate=kept&pictures=1", [f"key-{number}" for number in range(5, 50, 10)]),
        ("pictures=2", []),
        ("source=site", []),
    ],
)
def test_a_search_finds_what_the_fields_say(server: PreviewServer, query: str, wanted: list[str]) -> None:
    assert keys(server, query) == wanted


def test_a_long_search_answers_with_the_place_it_came_to(
    server: PreviewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipelines.preview.server.SCANNED", 10)
    assert found(server, "words=brown") == {"documents": [], "next": 10, "read": 10}
    assert keys(server, "words=brown&after=30") == ["key-33"]


def test_pictures_come_small_and_by_number_only(server: PreviewServer) -> None:
    picture = get(server, "/pictures/5/0")
    assert (picture.status, picture.headers["Content-Type"]) == (200, "image/jpeg")
    assert picture.read().startswith(b"\xff\xd8\xff")
    statuses = [get(server, f"/pictures/{place}").status for place in ("1/0", "5/1", "999/0", "49/0", f"{'9' * 400}/0")]
    assert statuses == [404] * 5


@pytest.mark.parametrize(
    "target", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/pictures/../a.tar"]
)
def test_no_address_is_a_path_of_a_file(server: PreviewServer, target: str) -> None:
    assert get(server, target).status == 404


def test_a_page_of_elsewhere_cannot_read_documents_through_a_name_of_its_own(server: PreviewServer) -> None:
    assert get(server, "/documents", host="evil.example").status == 403
    assert get(server, "/documents", host=f"localhost:{server.server_port}").status == 200


def test_every_answer_carries_the_policy(server: PreviewServer) -> None:
    policy = get(server, "/").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src 'self' data:;")
    assert "connect-src 'self'" in policy
    assert server.server_address[0] == "127.0.0.1"


def test_a_silent_connection_holds_nobody_up(server: PreviewServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)):
        assert get(server, "/documents").status == 200
