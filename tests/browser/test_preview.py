"""The preview of shards, driven as people use it: read, search, choose, hover, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from data_pipelines.preview.page import preview_page
from data_pipelines.preview.server import PreviewServer
from data_pipelines.shard import ShardWriter
from data_pipelines.shard_set import ShardSet
from tests.data_pipelines.preview.hostile import ATTACKS, write_hostile
from tests.vision.pictures import drawn, encoded
from text.document import Control, Document, Image, Phrase, Text
from text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 844}
CARDS = "#documents > li"


def write_documents(path: Path) -> None:
    """60 documents: a grounded one, a question, one that was dropped, a long one, and many plain ones."""
    picture = encoded(drawn(120, 160), "PNG")
    dog, ball = ((0.1, 0.2, 0.5, 0.9),), ((0.6, 0.1, 0.7, 0.2), (0.8, 0.1, 0.9, 0.2))
    phrases = (Phrase(start=2, end=7, boxes=dog), Phrase(start=16, end=21, boxes=ball))  # after a letter of two halves
    with ShardWriter(path) as writer:
        grounded = (
            Control("<grounding>"),
            Image(picture, meta={"alt": "a yard"}),
            Text("🐾 A dog and two balls", True, phrases),
        )
        writer.write("grounded", Document(grounded, {"source": "boxes"}))
        asked = (Image(picture), Text("Question: who? Answer:", loss=False), Text("Nobody."))
        writer.write("asked", Document(asked, {"source": "questions"}))
        writer.write("left", Document((Text("Click here"),), {"source": "web", "dropped": "too few words"}))
        writer.write("long", Document((Text("line\n" * 1000), Text("the very end")), {"source": "web"}))
        for number in range(56):
            writer.write(f"plain-{number:02d}", Document((Text(f"Words number {number}"),), {"source": "web"}))


@contextmanager
def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """The page in a window of its own; a script error, a refused resource or a request to elsewhere fails the test."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    home = (address, "data:") if address.startswith("http") else ("file://", "data:")
    page.on("request", lambda request: None if request.url.startswith(home) else faults.append(request.url))
    page.goto(address)
    page.locator(CARDS).first.wait_for()
    yield page
    context.close()
    assert not faults


@pytest.fixture
def file_address(tmp_path: Path, small_tokenizer: Tokenizer) -> str:
    """The page as one file."""
    write_documents(tmp_path / "a.tar")
    return page_file(tmp_path, small_tokenizer)


def page_file(folder: Path, tokenizer: Tokenizer) -> str:
    with ShardSet([str(folder / "a.tar")]) as samples:
        page = preview_page(samples, tokenizer, title="a.tar", documents=100, max_bytes=2**30)
    (folder / "page.html").write_text(page, "utf-8")
    return (folder / "page.html").as_uri()


@pytest.fixture
def server_address(tmp_path: Path, small_tokenizer: Tokenizer) -> Iterator[str]:
    """The same documents from the server."""
    write_documents(tmp_path / "served" / "a.tar")
    with (
        ShardSet([str(tmp_path / "served" / "a.tar")]) as samples,
        PreviewServer(samples, small_tokenizer, title="a.tar") as server,
    ):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.fixture(params=["file", "server"])
def address(request: pytest.FixtureRequest) -> str:
    """Both ways to the same page."""
    found: str = request.getfixturevalue(f"{request.param}_address")
    return found


def test_documents_read_in_order_with_pictures_and_marks(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        first, second = page.locator(CARDS).nth(0), page.locator(CARDS).nth(1)
        expect(first.locator(".control")).to_have_text("<grounding>")
        expect(first.locator("mark")).to_have_text(["A dog", "balls"])
        expect(first.locator("figcaption")).to_have_text("a yard")
        expect(second.locator(".untrained")).to_have_text("Question: who? Answer:")
        expect(second.locator(".margin")).to_contain_text("1 picture")
        page.wait_for_function(
            "Array.from(document.images).every((image) => image.complete && image.naturalWidth === 160)"
        )
        expect(page.locator(CARDS).nth(2).locator(".reason")).to_have_text("too few words")


def test_boxes_lie_on_the_picture_and_answer_to_their_words(browser: Browser, file_address: str) -> None:
    with opened(browser, file_address) as page:
        first = page.locator(CARDS).first
        image, boxes = first.locator("img").bounding_box(), first.locator("rect")
        assert image is not None
        expect(boxes).to_have_count(3)
        box = boxes.first.bounding_box()
        assert box is not None
        assert box["x"] == pytest.approx(image["x"] + 0.1 * image["width"], abs=3)
        assert box["y"] + box["height"] == pytest.approx(image["y"] + 0.9 * image["height"], abs=3)
        first.locator("mark", has_text="balls").hover()
        expect(first.locator("rect.chosen")).to_have_count(2)
        boxes.first.hover()
        expect(first.locator("mark.chosen")).to_have_text("A dog")


def test_search_and_choices_narrow_the_list(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        expect(page.locator(CARDS)).to_have_count(20)
        page.fill("#words", "NUMBER 55")
        expect(page.locator(".key")).to_have_text(["plain-55"])
        expect(page.locator("#state")).to_have_text("1 found in all 60 documents")
        assert page.evaluate("CSS.highlights.get('found').size") == 1
        page.fill("#words", "")
        page.select_option("#pictures", "1")
        expect(page.locator(".key")).to_have_text(["grounded", "asked"])
        page.select_option("#source", "questions")
        expect(page.locator(".key")).to_have_text(["asked"])
        page.select_option("#source", "")
        page.select_option("#pictures", "")
        page.select_option("#fate", "too few words")
        expect(page.locator(".key")).to_have_text(["left"])


def test_more_documents_come_on_demand_until_the_last(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        for shown in (40, 60):
            page.click("#more")
            expect(page.locator(CARDS)).to_have_count(shown)
        expect(page.locator("#more")).to_be_hidden()
        expect(page.locator("#state")).to_have_text("All 60 documents")


def test_a_long_document_is_folded_until_asked_for(browser: Browser, file_address: str) -> None:
    with opened(browser, file_address) as page:
        long = page.locator(CARDS).nth(3)
        assert long.evaluate("(card) => card.clientHeight") < 1000
        long.get_by_role("button", name="Read on").click()
        assert long.evaluate("(card) => card.clientHeight") > 10_000


def test_the_keyboard_walks_copies_and_opens(browser: Browser, server_address: str) -> None:
    with opened(browser, server_address, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("c")
        expect(page.locator(".key.copied")).to_have_text("asked")
        assert page.evaluate("navigator.clipboard.readText()") == "asked"
        page.keyboard.press("m")
        expect(page.locator("details[open] pre")).to_contain_text('"source": "questions"')
        page.keyboard.press("/")
        expect(page.locator("#words")).to_be_focused()
        page.keyboard.type("jack")
        expect(page.locator("#state")).to_have_text("0 found in all 60 documents")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_light(browser: Browser, file_address: str, scheme: str) -> None:
    with opened(browser, file_address, viewport=PHONE, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        red = int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
        assert (red > 200) == (scheme == "light")


def test_hostile_documents_are_only_read(browser: Browser, tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    write_hostile(tmp_path / "a.tar")
    with opened(browser, page_file(tmp_path, small_tokenizer)) as page:
        expect(page.locator(CARDS)).to_have_count(len(ATTACKS) + 5)
        assert page.evaluate("window.owned") is None
        for number, attack in enumerate(ATTACKS):
            words = page.locator(CARDS).nth(number).locator(".body p").first
            assert words.evaluate("(element) => element.textContent") == attack
            assert words.evaluate("(element) => element.querySelectorAll('*').length") == 1  # the span of the segment
        expect(page.locator(".fault")).to_have_count(2)
        assert page.evaluate("document.querySelectorAll('script').length") == 2
        page.select_option("#fate", ATTACKS[0])
        expect(page.locator(CARDS)).to_have_count(1)
