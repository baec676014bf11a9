"""The web page in a browser: what its tests do again and again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.demo import CLIP


def ready(page) -> None:
    """The dialects have come, and the form of before with them."""
    page.wait_for_selector("#dialect option[value=zh-CN]", state="attached", timeout=60_000)


def says(page, selector: str, pattern: str, timeout: float = 20_000) -> None:
    # Text as it stands in the document, with the blanks around it.
    spaced = pattern.replace("^", r"^\s*").replace("$", r"\s*$")
    page.locator(selector).filter(has_text=re.compile(spaced)).wait_for(timeout=timeout)


def fill_in(page, text: str = "Hello there.", dialect: str = "en-US") -> None:
    page.fill("#text textarea", text)
    page.select_option("#dialect", dialect)
    page.set_input_files("#clip input[type=file]", str(CLIP))
    page.wait_for_selector("#clip button[aria-label='Clear'], #clip [data-testid*=waveform]", timeout=20_000)
    says(page, "#generate", "^Generate$")


def generate(page) -> None:
    """Press the button and wait for the end of the request."""
    with new_take(page):
        page.click("#generate")


@contextmanager
def new_take(page) -> Iterator[None]:
    """Wait after the block until the request that it has begun is over, and its speech heads the list."""
    newest = "document.querySelector('.newest .take')?.dataset.token ?? null"
    before = page.evaluate(newest)
    yield
    page.wait_for_function(f"before => ({newest}) !== before", arg=before, timeout=30_000)
    page.locator("#stop").wait_for(state="hidden")
    page.locator("#result .summary").wait_for(timeout=20_000)


def live(page) -> dict:
    return dict(page.evaluate("({...document.querySelector('.live').dataset})"))


def cancelled(api, page, within_s: float = 15) -> None:
    end = time.monotonic() + within_s
    while not api.cancelled:
        assert time.monotonic() < end, "the API still works for nobody"
        page.wait_for_timeout(100)


def in_window(page, selector: str) -> bool:
    """Tell whether an element lies in the window, and nothing covers its middle."""
    return page.eval_on_selector(
        selector,
        "element => { const box = element.getBoundingClientRect();"
        " const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);"
        " return box.top >= 0 && box.bottom <= innerHeight && element.contains(top); }",
    )
