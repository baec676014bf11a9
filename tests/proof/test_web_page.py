"""The web page as a person uses it: in a real Chromium, served by Serve beside the graph that speaks.

COSYGRAPH_SCREENSHOT=docs/webui.png makes the picture in the README while testing.
"""

from __future__ import annotations

import os
import re

import pytest
import soundfile
import yaml

from cluster.application import WEB_PAGE, Application
from cluster.demo import CLIP
from tests.helpers.browser import Asked
from tests.helpers.serving import CLUSTER, App

pytestmark = pytest.mark.proof

TEXT = "Although the evening was cold, they walked along the harbour."
STAGES = ("Prepare reference", "Extract voice", "Generate speech", "Make waveform")
WITHIN_MS = 60_000


@pytest.fixture(scope="module")
def site_url(apps) -> str:
    """The page in front of `voice`, out of the project's own config; gone afterwards."""
    voice: App = apps["voice"]
    entries = yaml.safe_load((CLUSTER / "serve.cpu.yaml").read_text())["applications"]
    page = next(entry for entry in entries if entry["import_path"] == WEB_PAGE)
    page["args"] = {"api_url": voice.url, "zipkin_ui_url": voice.zipkin, "api_docs_url": f"/{voice.name}/docs"}
    applications = voice.config["applications"]  # one list for all, or redeploying another would end this one
    applications.append(page)
    try:
        voice.dashboard.deploy(Application(voice.config))
        voice.dashboard.wait_until_running(page["name"], print)
        yield f"http://127.0.0.1:{voice.port}{page['route_prefix']}"
    finally:
        applications.remove(page)
        voice.dashboard.deploy(Application(voice.config))


@pytest.fixture
def page(browser, site_url):
    context = browser.new_context(viewport={"width": 1360, "height": 900}, locale="en-GB")
    opened = context.new_page()
    asked = Asked(opened)
    opened.goto(site_url)
    opened.wait_for_selector("#dialect option[value=zh-CN]", state="attached", timeout=WITHIN_MS)
    yield opened
    assert asked.hosts == {"127.0.0.1"}
    assert asked.complaints == []
    context.close()


def waits(page, words: str) -> None:
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    try:
        page.locator("#generate").filter(has_text=re.compile(rf"{words}\s*$")).wait_for(timeout=WITHIN_MS)
    except PlaywrightTimeout:
        raise AssertionError(f"the button says {page.inner_text('#generate')!r}, not {words!r}") from None


def test_choose_upload_generate_hear_and_open_the_trace(page, voice):
    waits(page, "First write what to say")
    assert page.locator("#dialect option[value=zh-Sichuan]").count() == 0, "the embedded engine can't speak it"
    assert "四川话" in page.locator("#dialect-box details", has_text="need CosyVoice3").text_content()
    page.fill("#text textarea", TEXT)
    page.select_option("#dialect", "en-GB")
    waits(page, "First upload or record a reference")
    page.set_input_files("#clip input[type=file]", str(CLIP))
    waits(page, "^\\s*Generate")
    page.click("#generate")
    page.locator("#result .summary").wait_for(timeout=WITHIN_MS)
    link = page.get_by_role("link", name="Open this request's trace")

    with page.expect_download() as download:
        page.get_by_role("link", name="Download wav").click()
    sound, rate = soundfile.read(download.value.path())
    assert rate == 24_000 and 2 < len(sound) / rate < 10 and 0.01 < (sound**2).mean() ** 0.5 < 0.5
    live = page.evaluate("({...document.querySelector('.live').dataset})")
    assert live["missed"] == "0" and float(live["seconds"]) == pytest.approx(len(sound) / rate)
    played = page.evaluate(
        """async url => {
        const context = new AudioContext();
        const sound = await context.decodeAudioData(await (await fetch(url)).arrayBuffer());
        return [sound.duration, context.state];
    }""",
        page.get_by_role("link", name="Download wav").evaluate("link => link.href"),
    )
    assert played == [pytest.approx(len(sound) / rate, abs=0.01), "running"], "the browser decodes and may play it"

    for name in STAGES:
        page.locator("#progress li.done", has_text=name).wait_for()
    rows = page.locator(".waterfall .row:not(.axis) .name").all_inner_texts()
    assert [row.split("\n")[0] for row in rows] == list(STAGES)
    times = [page.locator(f"{part} .took").all_inner_texts() for part in ("#progress", ".waterfall .row:not(.axis)")]
    assert times[0] == times[1], "one number for one thing"
    page.locator(".waterfall summary").click()
    rows = page.locator(".waterfall tbody tr").all_inner_texts()
    figures = [float(cell) for cell in rows[2].replace(",", "").split("\t")[1:]]  # GENERATE_MEL
    start, *parts, duration, size = figures
    assert sum(parts) == pytest.approx(duration, abs=3) and parts[2] > duration / 2 and size == 1
    page.locator(".waterfall summary").click()
    if target := os.environ.get("COSYGRAPH_SCREENSHOT"):
        page.locator("h1").click()
        page.wait_for_timeout(len(sound) / rate * 1000 + 1000)
        page.screenshot(path=target, full_page=True)

    with page.expect_popup() as popup:
        link.click()
    trace_id = popup.value.url.rsplit("/", 1)[1]
    assert len(voice.trace(trace_id, spans=5)) >= 5
    popup.value.get_by_text("generate_mel", exact=False).first.wait_for(timeout=30_000)


def test_the_keyboard_alone_is_enough(page):
    """Tab, Enter and the space bar; the file chooser is the browser's own."""

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.closest(selector) !== null", selector):
                return
        raise AssertionError(f"Tab never comes to {selector}")

    tab_to("#text textarea")
    page.keyboard.type("Good morning.")
    waits(page, "First choose a dialect")
    tab_to("#dialect")
    page.keyboard.type("Eng")
    waits(page, "First upload or record a reference")
    with page.expect_file_chooser() as chooser:
        tab_to("#clip button")
        page.keyboard.press("Enter")
    chooser.value.set_files(str(CLIP))
    tab_to("#mode input:checked")
    page.keyboard.press("ArrowRight")
    waits(page, "First say how: choose a style or write one")
    tab_to("#presets button")
    page.keyboard.press("Space")
    waits(page, "^\\s*Generate")
    tab_to("#generate")
    page.keyboard.press("Enter")
    page.locator("#result .summary").wait_for(timeout=WITHIN_MS)
    tab_to("#takes audio")
    tab_to(".newest .again")
    tab_to(".downloads a")
    tab_to("#result a")


def test_an_instruction_that_the_engine_does_not_know_is_explained(page):
    page.select_option("#dialect", "en-US")
    page.set_input_files("#clip input[type=file]", str(CLIP))
    page.fill("#text textarea", TEXT)
    page.get_by_label("Natural-language control").check()
    page.fill("#style textarea, #style input", "like a duck in space")
    waits(page, "^\\s*Generate")
    page.click("#generate")
    alert = page.locator("#result [role=alert]")
    alert.wait_for(timeout=WITHIN_MS)
    assert "This engine can vary tempo, pitch and loudness" in alert.inner_text()
    assert "/zipkin/traces/" in page.get_by_role("link", name="Open this request's trace").get_attribute("href")


def test_a_long_text_goes_in_pieces(page):
    page.select_option("#dialect", "en-US")
    page.set_input_files("#clip input[type=file]", str(CLIP))
    page.fill("#text textarea", f"{TEXT} The lamps were lit early. Nobody spoke until they reached the bridge. " * 3)
    page.wait_for_function("document.querySelector('#long-form input').checked")  # by itself
    waits(page, "^\\s*Generate")
    page.click("#generate")
    page.locator("#progress", has_text=re.compile(r"of [2-9]\d* pieces")).wait_for(timeout=WITHIN_MS)
    page.locator("#result .summary").wait_for(timeout=2 * WITHIN_MS)
    assert page.evaluate("document.querySelector('.live').dataset.missed") == "0"
    names = page.locator(".waterfall .row:not(.axis) .name").all_inner_texts()
    assert [name.split("\n")[0] for name in names[:4]] == ["Prepare reference", "Extract voice", "Piece 1", "Piece 2"]


def test_a_voice_is_stored_heard_renamed_and_deleted_by_the_real_api(page):
    page.set_input_files("#clip input[type=file]", str(CLIP))
    page.select_option("#dialect", "en-US")
    page.get_by_role("button", name="Keep this voice").click()
    page.fill("#keep-name textarea, #keep-name input", "from-the-page")
    page.fill("#keep-consent textarea, #keep-consent input", "The clip is this project's own.")
    page.click("#keep-button")
    page.locator("#kept", has_text="Stored and chosen: from-the-page").wait_for(timeout=WITHIN_MS)
    page.locator("#voice-facts", has_text="The clip is this project's own.").wait_for()
    page.click("#preview")
    page.locator("#preview-sound audio").wait_for(timeout=WITHIN_MS)
    page.wait_for_function("document.querySelector('#preview-sound audio').duration > 1", timeout=WITHIN_MS)
    page.get_by_role("button", name="Rename, fit or delete").click()
    page.fill("#new-name textarea, #new-name input", "a name with spaces")
    page.click("#rename")
    page.locator("#problem-new-name", has_text="The name holds a character that is not allowed").wait_for()
    page.fill("#new-name textarea, #new-name input", "改名")
    page.click("#rename")
    page.locator("#kept", has_text="Renamed: 改名").wait_for()
    page.click("#delete")
    page.locator("#delete", has_text="Delete 改名 for good").click()
    page.locator("#kept", has_text="Deleted: 改名").wait_for()
