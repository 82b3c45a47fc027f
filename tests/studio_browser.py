"""Debian's Chromium, driven by Playwright; and servers to look at with it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A browser."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """A page of the studio, and what it complained of.

    Args:
        browser: from `launched`.
        url: of the studio.
        context: options of the browser's context.
    """

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.set_default_timeout(15_000)
        self.page.goto(url)
        self.page.locator("html[data-ready=true]").wait_for(state="attached")

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and "status of" not in message.text:  # refusals that a test provokes
            self.complaints.append(message.text)

    def close(self) -> None:
        """Close it; nothing it did may have gone wrong unseen."""
        self.context.close()
        assert not self.complaints, self.complaints

    def upload(self, content: bytes, name: str = "door.flac") -> None:
        """Choose a file, and wait until it is there to be played."""
        self.choose(content, name)
        self.page.locator("#wave wave, #wave > div").first.wait_for()
        self.page.locator("#ask").wait_for()
        self.page.get_by_text("0.0 s of").wait_for()

    def choose(self, content: bytes, name: str = "door.flac") -> None:
        """Choose a file."""
        self.page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": content})

    def ask(self, question: str, *choices: str) -> None:
        """Ask."""
        self.page.fill("#question", question)
        for choice in choices:
            self.page.fill("#choice", choice)
            self.page.press("#choice", "Enter")
        self.page.click("#go")

    def answered(self, n: int = 1) -> None:
        """Wait until so many answers are there."""
        self.page.locator(".run .answer:visible").nth(n - 1).wait_for(timeout=60_000)

    @property
    def regions(self) -> Any:
        """The coloured regions of the waveform."""
        return self.page.locator("#wave [part~=region]")

    def sound(self) -> tuple[float, bool]:
        """Where the audio element is, in seconds, and whether it plays."""
        return tuple(self.page.locator("#sound").evaluate("e => [e.currentTime, !e.paused]"))

    def text(self, selector: str) -> str:
        """The text of the first such element."""
        return self.page.locator(selector).first.inner_text()
