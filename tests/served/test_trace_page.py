"""Zipkin's own page of a request's trace, opened in a real browser.

COSYGRAPH_SCREENSHOT=docs/trace.png makes the picture in the README while testing.
"""

import os

import pytest

from tests.helpers.browser import chromium


@pytest.fixture(scope="module")
def page():
    with chromium() as window:
        yield window.new_page(viewport={"width": 1400, "height": 760})


def test_a_person_sees_five_spans_of_five_services(page, voice):
    answer = voice.post(text="Although the evening was cold, they walked along the harbour.")
    assert answer.status_code == 200, answer.text
    voice.trace(answer.headers["x-trace-id"], spans=5)
    page.goto(answer.headers["x-trace-url"])
    for stage in ("post /api/generate", "preprocess_audio", "extract_speaker", "generate_mel", "vocode_wav"):
        page.get_by_text(stage, exact=False).first.wait_for(timeout=30_000)
    shown = page.inner_text("body").lower()
    for service in ("cosyvoice3-api", "audio-service", "embedding-service", "tts-service", "vocoder-service"):
        assert service in shown
    if target := os.environ.get("COSYGRAPH_SCREENSHOT"):
        page.wait_for_timeout(1500)
        page.screenshot(path=target)


def test_the_dependency_graph_has_five_services(page, voice):
    voice.trace(voice.post().headers["x-trace-id"], spans=5)
    page.goto(f"{voice.zipkin}/zipkin/dependency")
    page.get_by_role("button", name="Run Query").click()
    # The graph is drawn on a canvas; the list to choose a service from is text.
    page.wait_for_timeout(2000)
    picker = page.get_by_role("textbox").last
    picker.click()
    shown = page.inner_text("body").lower()
    assert "error" not in shown and "dependencies" in shown
