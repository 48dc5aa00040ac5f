"""The page, driven as people use it: choose, drop, paste, type, read, stop; with a phone, in the dark, by keyboard."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.serving.live import LIMITLESS, LiveServer, data_url, picture_bytes

pytestmark = pytest.mark.slow
ANSWERS = "#answers li"


def answered(page: Page, number: int = 1) -> str:
    """The words of an answer, once it is complete."""
    item = page.locator(ANSWERS).nth(number - 1)
    item.locator(".about").wait_for()
    expect(item.locator(".words")).to_have_attribute("aria-busy", "false")
    return item.locator(".answer").inner_text()


def transfer(page: Page, event: str, name: str, content: bytes, kind: str) -> None:
    """Drop or paste a file, as the browser itself would say it."""
    page.evaluate(
        """([event, name, content, kind]) => {
            const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: kind }));
            const about = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(
                event === "paste"
                    ? new ClipboardEvent(event, { ...about, clipboardData: data })
                    : new DragEvent(event, { ...about, dataTransfer: data }));
        }""",
        [event, name, base64.b64encode(content).decode(), kind],
    )


def test_a_chosen_picture_is_shown_and_the_model_goes_on(page: Page, photograph: Path, server: LiveServer) -> None:
    page.set_input_files("#file", photograph)
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("#picture-name")).to_have_text("holiday.png")
    expect(page.locator("#drop")).to_be_hidden()
    page.fill("#prompt", "A photo of")
    page.click("#ask")
    words = answered(page)
    image = {"type": "image_url", "image_url": {"url": data_url(photograph.read_bytes())}}
    content = [image, {"type": "text", "text": "A photo of"}]
    messages = [{"role": "user", "content": content}]
    body = {"model": "small", "messages": messages, "max_tokens": 64, "grounding": True}
    assert words.strip() == server.post(body).json()["choices"][0]["message"]["content"]
    expect(page.locator(".asked")).to_have_text("A photo of")
    expect(page.locator(".about")).to_contain_text("64 tokens")
    expect(page.locator(".caret")).to_have_count(0)
    expect(page.locator("#prompt")).to_have_value("")


def test_a_question_asked_at_once_is_about_the_picture_that_is_still_being_read(page: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(picture_bytes(width=2400, height=1600))
    page.fill("#prompt", "A photo of")
    page.set_input_files("#file", large)
    with page.expect_request("**/v1/chat/completions") as request:
        page.press("#prompt", "Enter")
    assert "data:image/" in str(request.value.post_data)
    assert answered(page)
    expect(page.locator("#picture-name")).to_have_text("large.png")


def test_a_picture_needs_no_words(page: Page, photograph: Path) -> None:
    page.set_input_files("#file", photograph)
    page.press("#prompt", "Enter")
    assert answered(page)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_arrives_by_drop_and_by_paste(page: Page, event: str) -> None:
    transfer(page, event, "brought.png", picture_bytes(), "image/png")
    expect(page.locator("#picture-name")).to_have_text("brought.png")
    expect(page.locator("#picture")).to_be_visible()


def test_a_format_only_the_browser_knows_is_sent_as_jpeg(page: Page) -> None:
    transfer(page, "drop", "drawing.bmp", picture_bytes("BMP"), "image/bmp")
    with page.expect_request("**/v1/chat/completions") as request:
        page.press("#prompt", "Enter")
    assert '"url":"data:image/jpeg;base64,' in str(request.value.post_data)
    assert answered(page)


def test_a_file_that_is_no_picture_is_explained(page: Page, tmp_path: Path) -> None:
    wrong = tmp_path / "notes.jpg"
    wrong.write_text("words")
    page.set_input_files("#file", wrong)
    expect(page.get_by_role("alert")).to_contain_text("notes.jpg")
    expect(page.locator("#drop")).to_be_visible()


def test_nothing_at_all_is_explained(page: Page) -> None:
    page.click("#ask")
    expect(page.get_by_role("alert")).to_contain_text("Choose a picture first")


def test_words_arrive_and_can_be_stopped(page: Page, server: LiveServer) -> None:
    def lengthen(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        endless = LIMITLESS - 1000
        route.continue_(post_data=json.dumps({**body, "max_tokens": endless, "min_tokens": endless}))

    page.route("**/v1/chat/completions", lengthen)
    page.fill("#prompt", "A dog")
    page.click("#ask")
    expect(page.locator(".answer")).not_to_be_empty()
    expect(page.locator("#ask")).to_be_hidden()
    page.click("#stop")
    expect(page.locator(".about")).to_contain_text("stopped")
    expect(page.locator("#ask")).to_be_visible()
    page.unroute("**/v1/chat/completions")
    page.fill("#prompt", "A cat")
    page.press("#prompt", "Enter")
    assert answered(page, 2), "the engine was free again"


def test_a_refusal_is_shown_and_the_words_are_kept(page: Page) -> None:
    def misname(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        route.continue_(post_data=json.dumps({**body, "model": "nobody"}))

    page.route("**/v1/chat/completions", misname)
    page.fill("#prompt", "A dog")
    page.click("#ask")
    expect(page.get_by_role("alert")).to_contain_text("is not served here")
    expect(page.locator("#prompt")).to_have_value("A dog")
    expect(page.locator(ANSWERS)).to_have_count(0)


def test_earlier_answers_count_only_if_wanted(page: Page) -> None:
    page.fill("#prompt", "A dog")
    page.click("#ask")
    first = answered(page)
    for remember, number in ((False, 2), (True, 3)):
        page.locator("details").evaluate("(details) => { details.open = true; }")
        page.set_checked("#remember", remember)
        page.fill("#prompt", "It is")
        with page.expect_request("**/v1/chat/completions") as request:
            page.click("#ask")
        assert answered(page, number)
        messages = json.loads(request.value.post_data or "")["messages"]
        assert [message["role"] for message in messages] == (["user", "assistant"] * 2 if remember else []) + ["user"]
    assert messages[1]["content"].strip() == first.strip()


def grounded_stream(route: Route) -> None:
    """What a model that knows where things are would send; the small random one does not."""
    words = "a cat 😀 beside a dog"
    boxes = [
        {"phrase": "a cat", "start": 0, "end": 5, "boxes": [[0.25, 0.5, 0.5, 1.0]]},
        {"phrase": "a dog", "start": 15, "end": 20, "boxes": [[0.0, 0.0, 0.5, 0.5], [0.5, 0.25, 1.0, 0.75]]},
    ]
    deltas = [({"content": words}, None), ({"boxes": boxes}, "stop")]
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    route.fulfill(content_type="text/event-stream", body=body)


def test_boxes_lie_where_the_model_says_and_answer_to_their_phrase(page: Page, photograph: Path) -> None:
    page.set_input_files("#file", photograph)
    page.route("**/v1/chat/completions", grounded_stream)
    with page.expect_request("**/v1/chat/completions") as request:
        page.press("#prompt", "Enter")
    answered(page)
    assert json.loads(request.value.post_data or "")["grounding"] is True
    frame = page.locator("#picture").bounding_box()
    boxes = page.locator(".box")
    expect(boxes).to_have_count(3)
    box = boxes.first.bounding_box()
    assert frame is not None
    assert box is not None
    assert frame["width"] / frame["height"] == pytest.approx(2.0, rel=0.01)
    assert (box["x"] - frame["x"]) / frame["width"] == pytest.approx(0.25, abs=0.01)
    assert (box["y"] - frame["y"]) / frame["height"] == pytest.approx(0.5, abs=0.01)
    assert box["width"] / frame["width"] == pytest.approx(0.25, abs=0.01)
    expect(page.locator("mark")).to_have_text(["a cat", "a dog"])
    page.locator("mark").nth(1).hover()
    expect(page.locator(".box.chosen")).to_have_count(2)
    page.locator("mark").first.focus()
    expect(page.locator(".box.chosen")).to_have_count(1)
    boxes.nth(1).hover()
    expect(page.locator("mark.chosen")).to_have_text("a dog")


def test_it_can_be_used_without_a_mouse(page: Page, photograph: Path) -> None:
    page.set_input_files("#file", photograph)
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("A dog")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and")
    expect(page.locator("#prompt")).to_have_value("A dog\nand")
    page.keyboard.press("Enter")
    answered(page)
    page.keyboard.press("Tab")
    expect(page.locator("#ask")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("summary")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#max-tokens")).to_be_visible()


def test_every_control_has_a_name(page: Page, photograph: Path) -> None:
    page.set_input_files("#file", photograph)
    page.locator("details").evaluate("(details) => { details.open = true; }")
    nameless = [
        line
        for line in page.locator("body").aria_snapshot().splitlines()
        if any(f"- {role}" in line for role in ("button", "textbox", "checkbox", "slider", "img")) and '"' not in line
    ]
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_sticks_out_on_any_screen(
    browser: Browser, server: LiveServer, photograph: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 740},
        color_scheme="dark" if scheme == "dark" else "light",
        base_url=server.url,
    )
    page = context.new_page()
    page.goto("/")
    page.locator("#state[data-state=ready]").wait_for()
    page.set_input_files("#file", photograph)
    page.fill("#prompt", "A-sentence-that-does-not-end-" * 8)
    page.click("#ask")
    page.locator(".about").wait_for()
    page.locator("details").evaluate("(details) => { details.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")) < 3 * 128
    assert dark == (scheme == "dark")
    context.close()


def test_a_server_that_is_loading_is_waited_for(page: Page) -> None:
    page.route("**/health", lambda route: route.fulfill(status=503, json={"status": "starting"}))
    page.reload()
    expect(page.locator("#state-words")).to_have_text("Loading the model …")
    expect(page.locator("#ask")).to_be_disabled()
    page.unroute("**/health")
    expect(page.locator("#ask")).to_be_enabled(timeout=60_000)


def test_the_policy_lets_nothing_in_from_elsewhere(server: LiveServer) -> None:
    for path in ("/", "/app.js", "/conversation.js", "/picture.js", "/style.css", "/icon.svg"):
        response = server.get(path)
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in response.text
        tag = response.headers["etag"]
        assert server.client.get(path, headers={"If-None-Match": tag}).status_code == 304
