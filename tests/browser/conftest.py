"""A real Chromium in front of a real server; skipped, loudly, where there is no Chromium."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.serving.conftest import checkpoint, server
from tests.serving.live import LiveServer, picture_bytes

__all__ = ["checkpoint", "server"]  # fixtures of the server's own tests

# A browser asked to stay at home: no sandbox inside containers, no calls to its maker.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, headless."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        warnings.warn("NO CHROMIUM: the page was not tested; install the package chromium", stacklevel=1)
        pytest.skip(f"no Chromium here (looked for {', '.join(names)}): the page was NOT tested")
    expect.set_options(timeout=60_000)  # a busy machine is slow, not wrong
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: LiveServer) -> Iterator[Page]:
    """The page, open and ready. A script error, a refused resource or a request to elsewhere fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=server.url)
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    page.on("request", lambda request: None if _at_home(request.url, server.url) else faults.append(request.url))
    page.goto("/")
    page.locator("#state[data-state=ready]").wait_for()
    yield page
    context.close()
    assert not faults


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A picture of 60 x 30 pixels."""
    path = tmp_path / "holiday.png"
    path.write_bytes(picture_bytes(width=60, height=30))
    return path


def _at_home(url: str, home: str) -> bool:
    return url.startswith((home, "data:", "blob:"))
