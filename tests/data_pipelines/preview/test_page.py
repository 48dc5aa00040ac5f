"""The page holds everything it shows, asks for nothing, and no document can become markup in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data_pipelines.preview.page import preview_page
from data_pipelines.shard import ShardWriter
from data_pipelines.shard_set import ShardSet
from tests.data_pipelines.preview.hostile import ATTACKS, write_hostile
from tests.vision.pictures import drawn, encoded, noise
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer

EVERYTHING = 2**30


class Elements(HTMLParser):
    """Names of all elements and the addresses they point to."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "style")]


def page_of(folder: Path, tokenizer: Tokenizer, **options: int) -> str:
    with ShardSet(sorted(map(str, folder.glob("*.tar")))) as samples:
        limits = {"documents": 1000, "max_bytes": EVERYTHING, **options}
        return preview_page(samples, tokenizer, title="shards <here>", **limits)


def content_of(page: str) -> dict[str, object]:
    (found,) = re.findall(r'<script id="content" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert not set("<>&") & set(found)  # browsers end a script at more than Python's parser knows
    content: dict[str, object] = json.loads(found, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return content


def documents_of(page: str) -> list[dict[str, object]]:
    documents = content_of(page)["documents"]
    assert isinstance(documents, list)
    return documents


def segments_of(document: dict[str, object]) -> list[dict[str, object]]:
    segments = document["segments"]
    assert isinstance(segments, list)
    return segments


def test_hostile_words_make_no_element_and_come_back_as_they_were(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    with ShardWriter(tmp_path / "plain" / "a.tar") as writer:
        writer.write("a", Document((Text("words"),)))
    write_hostile(tmp_path / "hostile" / "a.tar")
    plain, hostile = Elements(), Elements()
    plain.feed(page_of(tmp_path / "plain", small_tokenizer))
    page = page_of(tmp_path / "hostile", small_tokenizer)
    hostile.feed(page)
    assert hostile.names == plain.names
    assert hostile.addresses == ["data:,"]  # its empty icon
    texts = [part["text"] for one in documents_of(page) for part in segments_of(one) if "text" in part]
    assert texts[: 2 * len(ATTACKS) : 2] == list(ATTACKS)


def test_the_policy_names_this_style_and_this_script_and_nothing_else(
    tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("a", Document((Text("words"),)))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page_of(tmp_path, small_tokenizer))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["connect-src"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind in ("style-src", "script-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules[kind])


def test_broken_documents_and_pictures_are_shown_with_what_is_wrong(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    write_hostile(tmp_path / "a.tar")
    found = {str(one["key"]): one for one in documents_of(page_of(tmp_path, small_tokenizer))}
    assert "malformed segments" in str(found["broken"]["fault"])
    picture, words = segments_of(found["cut-picture"])
    assert picture["image"] is None
    assert "cut short" in str(picture["fault"])
    assert words["text"] == "words stay"
    (text,) = segments_of(found["bad-boxes"])
    assert text["phrases"] == [{"start": 0, "end": 1, "boxes": []}]


def test_long_things_are_cut_and_the_page_says_by_how_much(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    write_hostile(tmp_path / "a.tar")
    (huge,) = (one for one in documents_of(page_of(tmp_path, small_tokenizer)) if one["key"] == "huge")
    segments = segments_of(huge)
    assert (len(str(segments[0]["text"])), segments[0]["cut"]) == (20_000, 480_000)
    assert segments[-1] == {"note": "2,001 more segments"}
    assert str(huge["meta"]).endswith("more characters")


def test_pictures_are_made_small_and_carry_nothing_of_their_file(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image as Pillow

    large = encoded(noise(900, 1200), "JPEG", comment=b"home address")
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("a", Document((Image(large),)))
    (document,) = documents_of(page_of(tmp_path, small_tokenizer))
    (picture,) = segments_of(document)
    kind, _, data = str(picture["image"]).partition(",")
    shown = b64decode(data)
    assert kind == "data:image/jpeg;base64"
    assert Pillow.open(BytesIO(shown)).size == (512, 384)
    assert b"home address" in large
    assert b"home address" not in shown


def test_a_page_ends_before_it_grows_too_large_and_says_so(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        for number in range(20):
            writer.write(f"{number}", Document((Image(encoded(drawn(200, 200), "PNG")),)))
    small = page_of(tmp_path, small_tokenizer, max_bytes=50_000)
    content = content_of(small)
    assert 0 < len(documents_of(small)) < 20
    assert len(json.dumps(content["documents"])) < 51_000
    assert (content["total"], content["wanted"]) == (20, 20)


def test_a_seed_draws_documents_from_all_over(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        for number in range(50):
            writer.write(f"{number:02d}", Document((Text("words"),)))

    def keys(**options: int) -> list[object]:
        return [one["key"] for one in documents_of(page_of(tmp_path, small_tokenizer, documents=5, **options))]

    assert keys() == ["00", "01", "02", "03", "04"]
    drawn_keys = keys(seed=1)
    assert drawn_keys == keys(seed=1) == sorted(map(str, drawn_keys))
    assert max(map(int, map(str, drawn_keys))) > 5
