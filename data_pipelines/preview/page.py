"""The page: one HTML file that holds its style, its script, its documents and their pictures, and asks for nothing.

A policy inside it lets run only this style and this script, by their hashes; documents are a block of JSON that the
script shows as text. So no document, however hostile, can do more than be read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Iterator
from importlib.resources import files

from data_pipelines.preview.record import Record, data_url, record_of
from data_pipelines.shard_set import ShardSet
from text.tokenizer import Tokenizer

__all__ = ["html_of", "policy_of", "preview_page"]


def preview_page(
    samples: ShardSet, tokenizer: Tokenizer, *, title: str, documents: int, max_bytes: int, seed: int | None = None
) -> str:
    """The page of a set's first documents, or of some drawn by `seed`.

    Args:
        documents: at most so many.
        max_bytes: of the documents inside the page; where they are more, the page ends early and says so.
    Raises: OSError; ShardError.
    """
    numbers = range(min(documents, len(samples)))
    chosen = numbers if seed is None else sorted(random.Random(seed).sample(range(len(samples)), len(numbers)))
    shown, left = list[Record](), max_bytes
    for number in chosen:
        record = record_of(number, samples[number], tokenizer, data_url)
        left -= len(json.dumps(record))
        if left < 0:
            break
        shown.append(record)
    about = {"title": title, "total": len(samples), "shards": len(samples.paths), "wanted": len(chosen)}
    return html_of({**about, "documents": shown}, policy_of(images="data:"))


def html_of(content: Record, policy: str) -> str:
    """The page around its content: documents, or only words about a set that a server knows."""
    parts = {"POLICY": policy, "STYLE": _file("page.css"), "SCRIPT": _file("page.js"), "CONTENT": _inert(content)}
    return "".join(_fill(_file("page.html"), parts))


def policy_of(*, images: str, fetch: str = "'none'") -> str:
    """What the page may do: its own style and script, pictures of one kind, and requests nowhere, or home."""
    style, script = (_hash(_file(name)) for name in ("page.css", "page.js"))
    rest = "base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; img-src {images}; style-src {style}; script-src {script}; connect-src {fetch}; {rest}"


def _fill(template: str, parts: dict[str, str]) -> Iterator[str]:
    """The template with `{{NAME}}` filled in one pass: a part is never searched for names."""
    for place, piece in enumerate(template.split("{{")):
        name, closed, rest = piece.partition("}}") if place else ("", "", piece)
        yield parts[name] + rest if closed else rest


def _inert(content: Record) -> str:
    """JSON that no parser of HTML can take for markup: without `<`, `>` and `&`."""
    written = json.dumps(content, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return (files("data_pipelines.preview") / name).read_text("utf-8")
