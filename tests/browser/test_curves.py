"""The curves of a run as people read them: pointed at, looked closer at, smoothed, on a phone, in the dark."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from kosmos.training.curves import write_curves
from kosmos.training.run_log import RunLog

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 844}
HOSTILE = "</script><script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"


@contextmanager
def opened(browser: Browser, path: Path, **options: object) -> Iterator[Page]:
    """The page in a window of its own; a script error, a refused resource or a request to elsewhere fails the test."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    home = ("file://", "data:")
    page.on("request", lambda request: None if request.url.startswith(home) else faults.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert not faults


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two stages: 1,000 steps with three kinds, a spike and a figure that is not finite; then 50 with a score."""
    log = RunLog(tmp_path)
    for step in range(10, 1001, 10):
        loss = 2 + 6 * math.exp(-step / 200) + 0.1 * math.sin(step)
        record = {"text": loss, "caption": loss - 0.5, "learning_rate": 1e-3 * (1 - step / 1000), "mfu": 0.4}
        record["gradient_norm"] = math.nan if step == 700 else 50.0 if step == 500 else 1.0
        if step % 250 == 0:
            record |= {"validation_loss": loss, "validation_cider_d": step / 2000}
        samples = {"samples": {"A photo of": HOSTILE}} if step == 500 else {}
        log.write({"stage": "words", "stage_number": 0, "step": step, **record, **samples})
    for step in range(5, 51, 5):
        log.write({"stage": "reward", "stage_number": 1, "step": step, "text": 2.0, "caption": 1.5, "score": 0.5})
    page = tmp_path / "curves.html"
    write_curves(log.path, page, f"a run {HOSTILE}")
    return page


def chart(title: str) -> str:
    return f".chart[aria-label='{title}']"


def test_every_chart_has_its_curves_within_its_sheet(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        titles = ["Loss", "Loss in validation", "CIDEr-D in validation", "Score", "Learning rate", "Gradient norm"]
        expect(page.locator(".chart h2")).to_have_text([*titles, "Model FLOPs utilisation"])
        assert page.locator(f"{chart('Loss')} .curve:not(.raw)").count() == 2
        for box in page.locator(".chart").all():
            sheet, card = box.locator("svg").bounding_box(), box.bounding_box()
            assert sheet is not None
            assert card is not None
            assert card["x"] <= sheet["x"]
            assert sheet["x"] + sheet["width"] <= card["x"] + card["width"]
        ends = page.evaluate(
            "[...document.querySelectorAll('.curve')].every((c) => !c.getAttribute('d').includes('NaN'))"
        )
        assert ends


def test_pointing_reads_the_same_step_in_every_chart(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        values = page.locator(f"{chart('Loss')} .value")
        expect(values).to_have_text(["2", "1.5"])  # the latest
        sheet = page.locator(f"{chart('Loss')} svg").bounding_box()
        assert sheet is not None
        page.mouse.move(sheet["x"] + 52 + (sheet["width"] - 62) * 500 / 1050, sheet["y"] + 60)
        expect(page.locator("#readout")).to_have_text("values at words 500")
        expect(page.locator(f"{chart('Gradient norm')} .value")).to_have_text("50")
        expect(page.locator(f"{chart('Model FLOPs utilisation')} .value")).to_have_text("40.0 %")
        page.mouse.move(2, 2)
        expect(values).to_have_text(["2", "1.5"])


def test_the_keyboard_reads_values_too(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        page.locator(f"{chart('Gradient norm')} svg").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#readout")).to_have_text("values at words 10")
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        expect(page.locator("#readout")).to_have_text("values at words 30")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#readout")).to_have_text("values at words 20")


def test_dragging_looks_closer_in_every_chart_and_the_whole_run_comes_back(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        sheet = page.locator(f"{chart('Loss')} svg").bounding_box()
        assert sheet is not None
        page.mouse.move(sheet["x"] + 52 + (sheet["width"] - 62) * 210 / 1050, sheet["y"] + 60)
        page.mouse.down()
        page.mouse.move(sheet["x"] + 52 + (sheet["width"] - 62) * 630 / 1050, sheet["y"] + 80)
        page.mouse.up()
        page.mouse.move(2, 2)
        expect(page.locator("#readout")).to_contain_text("steps 2")
        last = page.locator(f"{chart('Learning rate')} svg text[text-anchor=middle]").last
        expect(last).to_have_text("600")
        page.click("#whole")
        expect(page.locator("#whole")).to_be_hidden()
        expect(last).to_have_text("1,000")


def test_a_stage_can_be_looked_at_alone(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        page.get_by_role("button", name="reward 50 steps").click()
        expect(page.locator("#readout")).to_have_text("steps 1,000 to 1,050")
        expect(page.locator(f"{chart('Score')} .stage-name")).to_have_text(["reward"])


def test_smoothing_draws_beside_the_values_and_none_draws_them_alone(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        curves = f"{chart('Loss')} .curve"
        raw = page.locator(curves).first.get_attribute("d")
        drawn = {page.locator(f"{curves}:not(.raw)").first.get_attribute("d")}
        page.locator("#smoothing label").nth(2).click()
        drawn.add(page.locator(f"{curves}:not(.raw)").first.get_attribute("d"))
        page.locator("#smoothing label").nth(0).click()
        expect(page.locator(f"{curves}.raw")).to_have_count(0)
        assert page.locator(curves).first.get_attribute("d") == raw
        assert len(drawn | {raw}) == 3


def test_a_log_scale_and_a_hidden_curve_change_what_is_drawn(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        loss = page.locator(chart("Loss"))
        before = loss.locator(".curve").first.get_attribute("d")
        loss.get_by_role("button", name="log scale").click()
        assert loss.locator(".curve").first.get_attribute("d") != before
        loss.get_by_role("button", name="caption").click()
        expect(loss.locator(".curve:not(.raw)")).to_have_count(1)


def test_exact_values_are_in_a_table(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        norm = page.locator(chart("Gradient norm"))
        norm.get_by_text("Exact values").click()
        expect(norm.locator("tbody tr")).to_have_count(100)
        expect(norm.locator("tbody tr").nth(30)).to_have_text("words 700not finite")
        expect(norm.locator(".faults")).to_have_text("Not finite: gradient norm in 1 of 100 lines")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_light(browser: Browser, path: Path, scheme: str) -> None:
    with opened(browser, path, viewport=PHONE, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        red = int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
        assert (red > 200) == (scheme == "light")


def test_what_a_log_says_is_only_read(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        expect(page.locator("h1")).to_have_text(f"a run {HOSTILE}")
        expect(page.locator(".words")).to_have_text(HOSTILE)
        assert page.evaluate("[window.owned, document.querySelectorAll('script, img').length]") == [None, 2]
