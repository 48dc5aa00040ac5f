"""A server on this machine for sets too big for one file: the page asks for a few documents at a time.

`/` is the page, `/documents?after=N&...` the next matches from document N on, `/pictures/N/I` one picture, small. No
address is a path of a file. A search reads on for a bounded number of documents and then answers with the place it
came to; the page goes on from there.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, urlsplit

from data_pipelines.errors import DocumentError, ShardError
from data_pipelines.preview.matching import Wanted, matches
from data_pipelines.preview.page import html_of, policy_of
from data_pipelines.preview.record import PictureAddress, Record, record_of, small_jpeg
from data_pipelines.shard_set import ShardSet
from text.tokenizer import Tokenizer

__all__ = ["PreviewServer"]

PAGE_DOCUMENTS = 20
SCANNED = 2_000  # documents read for one answer, matching or not


class _Answer(NamedTuple):
    status: int
    kind: str
    body: bytes


class PreviewServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1 only. Connections have a thread each, since browsers open some ahead and leave them silent;
    requests are answered one at a time, since they share the open shards."""

    daemon_threads = True

    def __init__(self, samples: ShardSet, tokenizer: Tokenizer, *, title: str, port: int = 0) -> None:
        """
        Args:
            port: 0 takes any free one; `url` says which.
        Raises: OSError if the port is taken.
        """
        self.samples, self.tokenizer = samples, tokenizer
        self._one_at_a_time = Lock()
        self.policy = policy_of(images="'self' data:", fetch="'self'")
        about = {"title": title, "total": len(samples), "shards": len(samples.paths), "served": True}
        self.page = html_of(about, self.policy)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def answer(self, target: str) -> _Answer:
        """What a GET of `target` gives."""
        with self._one_at_a_time:
            return self._answer(urlsplit(target))

    def _answer(self, address: SplitResult) -> _Answer:
        words = [word for word in address.path.split("/") if word]
        if not words:
            return _Answer(200, "text/html; charset=utf-8", self.page.encode())
        if words == ["documents"]:
            found = json.dumps(self._documents(parse_qs(address.query)))
            return _Answer(200, "application/json", found.encode())
        if words[0] == "pictures" and len(words) == 3 and all(word.isdecimal() for word in words[1:]):
            return self._picture(int(words[1][:18]), int(words[2][:18]))
        return _Answer(404, "text/plain", b"not found")

    def _documents(self, query: dict[str, list[str]]) -> Record:
        value = {name: found[0] for name, found in query.items()}
        after = int(value["after"][:18]) if value.get("after", "").isdecimal() else 0
        wanted = Wanted.of(value)
        found: list[Record] = []
        stop = min(len(self.samples), after + SCANNED)
        for number in range(after, stop):
            record = record_of(number, self.samples[number], self.tokenizer, _addresses(number))
            if matches(record, wanted):
                found.append(record)
            if len(found) == PAGE_DOCUMENTS:
                stop = number + 1
                break
        return {"documents": found, "next": stop if stop < len(self.samples) else None, "read": stop}

    def _picture(self, number: int, place: int) -> _Answer:
        try:
            image = self.samples[number].document().images[place]
            return _Answer(200, "image/jpeg", small_jpeg(image))
        except (IndexError, DocumentError, ShardError):
            return _Answer(404, "text/plain", b"no such picture")
        except ValueError as error:
            return _Answer(422, "text/plain", str(error).encode())


def _addresses(number: int) -> PictureAddress:
    return lambda place, _: f"/pictures/{number}/{place}"


class _Handler(BaseHTTPRequestHandler):
    server: PreviewServer
    timeout = 60  # seconds for a connection that says nothing
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """Answer, unless the request came under a foreign name: a page of elsewhere must not read documents."""
        home = (f"127.0.0.1:{self.server.server_port}", f"localhost:{self.server.server_port}")
        if self.headers.get("Host") not in home:
            answer = _Answer(403, "text/plain", b"open the address that was printed")
        else:
            answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(answer.body)

    def _answer(self) -> _Answer:
        try:
            return self.server.answer(self.path)
        except (OSError, ValueError) as error:
            return _Answer(500, "text/plain; charset=utf-8", str(error).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the page says what failed."""
