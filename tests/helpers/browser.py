"""A real Chromium that asks nobody on the internet anything, and is silent until a person has touched the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OFFLINE = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=user-gesture-required",
]
#: A microphone that hears a beep every half a second, and nobody asked for leave.
MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@contextmanager
def chromium() -> Iterator:
    """Playwright's Browser, on the system's Chromium; skips where there is none."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine; on Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=[*OFFLINE, *MICROPHONE])
        yield window
        window.close()


class Asked:
    """Every request of a page, and what it complained of."""

    def __init__(self, page) -> None:
        self.urls: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.urls.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._console)

    def _console(self, message) -> None:
        if message.type == "error":
            where = message.location.get("url")
            self.complaints.append(f"{message.text} ({where})" if where else message.text)

    @property
    def hosts(self) -> set[str]:
        """Whom the page asked, without what it asked itself (data: and blob:)."""
        return {url.split("/")[2].split(":")[0] for url in self.urls if url.startswith(("http", "ws"))}
