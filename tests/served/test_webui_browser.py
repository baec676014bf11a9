"""The web page in a real Chromium, against a stand-in of the API: what needs no graph, and what a graph does rarely."""

from __future__ import annotations

import io
import re

import av
import numpy as np
import pytest
import soundfile

from cluster.demo import CLIP
from tests.helpers.browser import Asked
from tests.helpers.standin_api import RATE, TRACE
from tests.helpers.webpage import cancelled, fill_in, in_window, live, ready, says


@pytest.fixture
def page(request, browser, site_url, api):
    context = browser.new_context(viewport={"width": 1360, "height": 900}, locale="en-GB")
    opened = context.new_page()
    asked = Asked(opened)
    opened.goto(site_url)
    ready(opened)
    yield opened
    assert asked.hosts == {"127.0.0.1"}
    if request.node.name == "test_leaving_the_page_cancels_it_too":
        # Gradio complains of its own requests that leaving a page ends.
        asked.complaints[:] = [text for text in asked.complaints if "Abort" not in text and "errored out" not in text]
    assert asked.complaints == []
    context.close()


def test_the_button_says_what_it_waits_for(page, api):
    says(page, "#generate", "First write what to say")
    assert page.eval_on_selector("#dialect", "select => select.value") == ""
    assert page.is_enabled("#generate"), "a keyboard finds it"
    page.fill("#text textarea", "Hello")
    says(page, "#generate", "First choose a dialect")
    page.click("#generate")
    says(page, "#result [role=alert]", "First choose a dialect")
    says(page, "#problem-dialect .problem", "First choose a dialect")
    page.select_option("#dialect", "en-US")
    says(page, "#generate", "First upload or record")
    page.locator("#problem-dialect .problem").wait_for(state="detached")
    page.set_input_files("#clip input[type=file]", str(CLIP))
    says(page, "#generate", "^Generate$")
    page.get_by_label("Natural-language control").check()
    says(page, "#generate", "First say how")
    page.get_by_role("button", name="happy").click()
    says(page, "#generate", "^Generate$")
    assert page.input_value("#style textarea, #style input") == "happily"
    assert not api.asked


def test_arrow_keys_choose_and_a_group_is_one_tab_stop(page):
    def within(group: str) -> bool:
        return page.evaluate("group => document.activeElement.closest(group) !== null", group)

    for group, after in (("#mode", "#style"), ("#source", "#voice")):
        page.locator(f"{group} input:checked").focus()
        for _ in range(2):  # the second time under the names that Gradio gave them anew
            page.keyboard.press("ArrowRight")
            page.locator(after).wait_for(state="visible")
            page.keyboard.press("ArrowLeft")
            page.locator(after).wait_for(state="hidden")
        page.keyboard.press("ArrowDown")
        page.locator(after).wait_for(state="visible")
        assert within(group)
        page.keyboard.press("Tab")
        assert not within(group)
        page.keyboard.press("Shift+Tab")
        assert page.locator(f"{group} input:checked").evaluate("input => input === document.activeElement")


def test_a_dialect_that_cannot_be_spoken_is_folded_under_what_it_needs(page):
    assert page.locator("#dialect option[value=zh-Sichuan]").count() == 0
    others = page.locator("#dialect-box details")
    assert not others.get_by_text("四川话").is_visible()
    others.locator("summary", has_text="23 more need CosyVoice3").click()
    assert others.get_by_text("四川话 · Sichuanese").is_visible()


def test_speech_plays_while_it_is_made_and_can_be_kept(page, api):
    api.pause_s, api.chunks = 0.25, 8
    fill_in(page)
    page.click("#generate")
    page.wait_for_function("Number(document.querySelector('.live').dataset.chunks) > 0")
    assert live(page)["state"] == "playing" and live(page)["over"] == "false", "before the last chunk has come"
    says(page, "#generate", "Working")
    says(page, "#progress li.started", "Make waveform")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download wav").click(timeout=20_000)
    assert download.value.suggested_filename == "Hello-there_en-US_seed-0.wav"
    whole = soundfile.info(download.value.path())
    assert (whole.duration, whole.samplerate, whole.format) == (4.0, RATE, "WAV")
    assert {name: live(page)[name] for name in ("seconds", "chunks", "missed", "over")} == {
        "seconds": "4",
        "chunks": "8",
        "missed": "0",
        "over": "true",
    }
    says(page, "#progress li.done >> nth=3", "Make waveform")
    assert page.locator(".waterfall .row:not(.axis)").count() == 4
    assert page.get_by_role("link", name="Open this request's trace").get_attribute("href").endswith(TRACE)
    assert {name: api.asked[0][name] for name in ("text", "dialect", "mode", "seed", "speed")} == {
        "text": "Hello there.",
        "dialect": "en-US",
        "mode": "fast",
        "seed": "0",
        "speed": "1",
    }


def painted(page, name: str) -> str:
    """Return what a highlight paints: the words that are heard now."""
    return page.evaluate(f"[...CSS.highlights.get('{name}')].map(String).join('|')")


def test_the_word_that_is_heard_lights_up_and_the_text_stays_one_text(page, api):
    api.pause_s, api.chunks = 0.05, 2
    fill_in(page)
    page.fill("#text textarea", "Good 😀 day, Ann")
    page.click("#generate")
    page.wait_for_function("[...CSS.highlights.get('cosygraph-live')].map(String).join() === 'day'", timeout=20_000)
    caption = page.locator(".live .caption")
    assert caption.text_content() == "Good 😀 day, Ann" and caption.get_attribute("aria-hidden") == "true"
    page.wait_for_function("document.querySelector('.live').dataset.state === 'idle'")
    assert painted(page, "cosygraph-live") == "" and caption.is_hidden()

    said = page.locator(".take .said")
    page.locator(".take audio").evaluate("audio => { audio.currentTime = 0.8; return audio.play(); }")
    page.wait_for_function("[...CSS.highlights.get('cosygraph-take')].map(String).join() === 'Ann'")
    assert said.evaluate("said => said.childNodes.length") == 1, "for a screen reader it is one text"
    page.locator(".take audio").evaluate("audio => audio.pause()")
    page.wait_for_function("CSS.highlights.get('cosygraph-take').size === 0")
    assert api.asked[0]["timestamps"] == "word"


def test_stop_cancels_the_request(page, api):
    api.chunks, api.pause_s = 1000, 0.1
    fill_in(page)
    page.click("#generate")
    page.wait_for_function("Number(document.querySelector('.live').dataset.chunks) > 2")
    page.click("#stop")
    says(page, "#result", "Stopped")
    says(page, "#generate", "^Generate$")
    cancelled(api, page)
    assert live(page)["state"] == "idle"
    says(page, "#progress li.stopped", "Make waveform")
    assert "waiting" not in page.inner_text("#progress")
    assert page.get_by_role("link", name="Open this request's trace").get_attribute("href").endswith(TRACE)


def test_a_stage_that_fails_is_red_and_its_box_has_a_border(page, api):
    api.late_error = {"message": "vocoder-service is not available.", "code": "stage_unavailable"}
    fill_in(page)
    page.click("#generate")
    says(page, "#progress li.failed", "Make waveform")
    says(page, "#result [role=alert]", "vocoder-service is not available")
    red = "rgb(194, 55, 63)"
    assert page.eval_on_selector("#progress li.failed .said", "said => getComputedStyle(said).color") == red
    border = page.eval_on_selector(
        "#result .problem",
        "box => { const s = getComputedStyle(box); return [s.borderTopStyle, s.borderLeftWidth, s.borderTopColor]; }",
    )
    assert border == ["solid", "5px", red]
    assert page.get_by_role("link", name="Open this request's trace").get_attribute("href").endswith(TRACE)


def test_longer_text_counts_and_switches_long_text_on(page, api):
    fill_in(page, text="a" * 200)
    says(page, "#count", "^200 / 200$")
    assert not page.get_by_label("Long text").is_checked()
    page.fill("#text textarea", "Hello there. " * 20)
    says(page, "#count", "^259 / 5,000$")
    page.wait_for_function("document.querySelector('#long-form input').checked")
    page.click("#generate")
    says(page, "#result .summary", "Real-time factor")
    assert api.asked[0]["long_form"] == "true"


def test_ctrl_enter_generates_what_was_just_typed(page, api):
    fill_in(page)
    page.focus("#text textarea")
    page.keyboard.press("End")
    page.keyboard.type(" Bye.")
    page.keyboard.press("Control+Enter")
    says(page, "#result .summary", "Real-time factor")
    assert [form["text"] for form in api.asked] == ["Hello there. Bye."]


@pytest.mark.parametrize("width, height", [(1366, 768), (390, 844)])
def test_the_button_stays_in_reach(page, api, width, height):
    page.set_viewport_size({"width": width, "height": height})
    assert in_window(page, "#generate")
    fill_in(page)
    page.get_by_label("Natural-language control").check()
    page.get_by_role("button", name="happy").click()
    says(page, "#generate", "^Generate$")
    page.click("#generate")
    says(page, "#result .summary", "Real-time factor")
    for there in ("0", "document.body.scrollHeight / 2", "document.body.scrollHeight"):
        page.evaluate(f"window.scrollTo(0, {there})")
        page.wait_for_timeout(100)
        assert in_window(page, "#generate"), there
    assert page.evaluate("window.scrollY") > 0, "or nothing was tried"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    last = page.locator("#result .trace").bounding_box()
    button = page.locator("#generate").bounding_box()
    assert width > 800 or last["y"] + last["height"] <= button["y"], "the end of the page is not covered"


def test_leaving_the_page_cancels_it_too(page, api):
    api.chunks, api.pause_s = 10_000, 0.1
    fill_in(page)
    page.click("#generate")
    page.wait_for_function("Number(document.querySelector('.live').dataset.chunks) > 2")
    page.get_by_role("link", name="中文").click()
    ready(page)
    cancelled(api, page, within_s=40)


def test_an_error_is_shown_as_the_api_says_it(page, api):
    api.refusal = (400, {"message": "Audio sample rate <8000Hz>, minimum required 16000Hz"})
    fill_in(page)
    page.click("#generate")
    says(page, "#result [role=alert]", "Audio sample rate <8000Hz>, minimum required 16000Hz")
    says(page, "#generate", "^Generate$")


def test_an_error_stands_at_its_field_in_the_pages_language(page, api):
    page.get_by_role("link", name="中文").click()
    says(page, "#generate", "请先填写要说的话")
    ready(page)
    page.set_input_files("#clip input[type=file]", str(CLIP))
    page.select_option("#dialect", "en-US")
    page.fill("#text textarea", "Hello there.")
    says(page, "#generate", "^生成语音$")
    api.refusal = (400, {"message": "It is 2.1 s long.", "code": "clip_too_short", "param": "prompt_audio"})
    page.click("#generate")
    says(page, "#problem-clip .problem", "参考音频太短")
    says(page, "#result [role=alert]", "It is 2.1 s long")
    assert page.locator(".at-field .problem").count() == 1
    api.refusal = (400, {"message": "Spelled wrong.", "code": "text_pronunciation", "param": "text"})
    page.click("#generate")
    says(page, "#problem-text .problem", "读音标注")
    assert page.locator(".at-field .problem").count() == 1, "the earlier one is gone"
    page.fill("#text textarea", "Hello again.")
    page.locator(".at-field .problem").wait_for(state="detached")


def test_a_key_is_asked_for_kept_in_the_page_and_handed_on(page, api):
    api.key = "a-key-of-mine"
    fill_in(page)
    page.click("#generate")
    says(page, "#result [role=alert]", "This service asks for an API key")
    field = page.get_by_label("API key")
    field.wait_for(state="visible", timeout=5_000)  # its box has opened by itself
    says(page, "#problem-key .problem", "This service asks for an API key")
    assert field.get_attribute("type") == "password"
    field.fill("a-key-of-mine")
    page.locator("#problem-key .problem").wait_for(state="detached")
    page.click("#generate")
    says(page, "#result .summary", "Real-time factor")
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert "a-key-of-mine" not in kept and "Hello there." in kept, "the form outlives a reload, the key does not"
    assert "Hello there." not in page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")


def test_a_recording_from_the_microphone_is_sent_as_wav(page, api):
    page.get_by_label("Record audio").or_(page.locator("#clip [aria-label*=icrophone]")).first.click()
    page.locator("#clip .record").click()
    page.wait_for_timeout(3300)
    page.locator("#clip .stop-button:visible, #clip button:has-text('Stop'):visible").first.click()
    page.select_option("#dialect", "en-US")
    page.fill("#text textarea", "Hello")
    says(page, "#generate", "^Generate$")
    page.click("#generate")
    says(page, "#result .summary", "Real-time factor")
    clip = api.asked[0]["prompt_audio"]
    assert clip["name"] == "clip.wav" and clip["bytes"] > 100_000


def test_a_voice_is_kept_and_spoken_with(page, api):
    fill_in(page)
    page.get_by_role("button", name="Keep this voice").click()
    page.click("#keep-button")
    says(page, "#problem-keep-name [role=alert]", "a name and what was agreed to")
    page.fill("#keep-name input, #keep-name textarea", "anna")
    page.fill("#keep-consent input, #keep-consent textarea", "She agreed to tests.")
    api.key = "a-key"
    page.click("#keep-button")
    says(page, "#problem-key [role=alert]", "This service asks for an API key")
    api.key = None
    page.click("#keep-button")
    says(page, "#kept", "Stored and chosen: anna")
    assert api.voices[0]["consent"]["agreed"] == "She agreed to tests."
    page.wait_for_selector("#voice input", state="visible")
    assert page.input_value("#voice input") == "anna · en-US · fit queued"
    assert page.get_by_label("Stored voice").first.is_checked()
    assert "No voice is stored yet" not in page.inner_text("#voice")
    says(page, "#generate", "^Generate$")
    page.click("#generate")
    says(page, "#result .summary", "Real-time factor")
    assert api.asked[0]["voice"] == "voice_0" and "prompt_audio" not in api.asked[0]


def test_a_voices_fit_is_followed_and_asked_for_again(page, api):
    api.voices.append({"id": "voice_0", "name": "anna", "dialect": "en-US", "fit": fit("running", step=2, steps=8)})
    page.get_by_label("Stored voice").first.check()
    page.click("#voice input")
    page.get_by_role("option", name="anna · en-US · fitting 2/8").click()
    says(page, "#voice-fit .badge.running", "^fitting 2/8$")
    api.voices[0]["fit"] = fit("running", step=6, steps=8)
    says(page, "#voice-fit .badge.running", "^fitting 6/8$")
    api.voices[0]["fit"] = fit("kept_steered", why="it is hoarse")
    says(page, "#voice-fit .badge.kept_steered", "^kept steered: it is hoarse$")
    page.get_by_role("button", name="Rename, fit or delete").click()
    says(page, "#fit", "^Fit to the speaker again$")
    page.click("#fit")
    says(page, "#kept", "Its fit is queued: anna")
    says(page, "#voice-fit .badge.queued", "^fit queued$")
    api.voices[0]["fit"] = fit("done")
    says(page, "#voice-fit .badge.done", "^fitted to the speaker$")


def fit(state: str, step: int = 0, steps: int = 0, why: str = "") -> dict:
    return {"state": state, "step": step, "steps": steps, "why": why}


def test_an_empty_store_says_so_and_a_refused_list_does_not(page, api):
    page.get_by_label("Stored voice").first.check()
    says(page, "#voice", "No voice is stored yet")
    api.voices.append({"id": "voice_0", "name": "anna", "dialect": "en-US"})
    page.click("#refresh")
    page.get_by_text("No voice is stored yet").wait_for(state="detached")
    api.voices.clear()
    page.click("#refresh")
    says(page, "#voice", "No voice is stored yet")
    api.key = "a-key"
    page.click("#refresh")
    says(page, "#problem-key [role=alert]", "This service asks for an API key")
    page.get_by_text("No voice is stored yet").wait_for(state="detached")


def test_chinese_and_english_each_in_their_own_words(page):
    page.get_by_role("link", name="中文").click()
    ready(page)
    says(page, "#generate", "请先填写要说的话")
    assert page.evaluate("document.documentElement.lang").startswith("zh")
    assert "拖放" in page.inner_text("#clip"), "Gradio's own words follow"
    page.get_by_role("link", name="English").click()
    says(page, "#generate", "First write what to say")
    assert "Drop Audio Here" in page.inner_text("#clip")


def test_a_chinese_browser_gets_chinese(browser, site_url, api):
    context = browser.new_context(locale="zh-CN")
    opened = context.new_page()
    opened.goto(site_url)
    says(opened, "#generate", "请先填写要说的话")
    assert opened.url.endswith("/zh/")
    context.close()


def test_every_control_has_a_name(page):
    for button in ("Natural-language control", "Stored voice"):
        page.get_by_label(button).first.check()
        page.wait_for_timeout(300)
    nameless = page.evaluate("""[...document.querySelectorAll('button, input, select, textarea, a')]
        .filter(element => element.offsetParent !== null)
        .filter(element => !(element.labels?.length || element.textContent.trim() || element.title ||
                             element.getAttribute('aria-label') || element.getAttribute('aria-labelledby')))
        .map(element => element.outerHTML.slice(0, 200))""")
    assert nameless == []


def test_a_file_larger_than_a_clip_is_refused_by_the_page(page, api, tmp_path):
    wave = io.BytesIO()
    soundfile.write(wave, [0.0] * 11_000_000, RATE, format="WAV")
    (tmp_path / "large.wav").write_bytes(wave.getvalue())
    page.set_input_files("#clip input[type=file]", str(tmp_path / "large.wav"))
    page.get_by_text(re.compile("exceeds|maximum|too large", re.I)).first.wait_for(timeout=20_000)
    page.fill("#text textarea", "Hello")
    page.select_option("#dialect", "en-US")
    says(page, "#generate", "First upload or record")


def drop(page, name: str, kind: str, content: bytes = b"no audio") -> None:
    """Drop a file on the clip's box, as a file manager does."""
    data = page.evaluate_handle(
        """([name, kind, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, {type: kind}));
            return data;
        }""",
        [name, kind, list(content)],
    )
    page.dispatch_event("#clip button:has(input[type=file]), #clip .upload-container", "drop", {"dataTransfer": data})


def test_the_picker_takes_the_clip_formats_of_the_api_and_no_others(page, api, tmp_path):
    assert page.get_attribute("#clip input[type=file]", "accept") == ".wav,.flac,.ogg,.mp3,.m4a,.mp4,.webm,.aac"
    page.select_option("#dialect", "en-US")
    page.fill("#text textarea", "Hello")
    for name, kind in (("song.mid", "audio/midi"), ("notes.pdf", "application/pdf")):
        drop(page, name, kind)
        says(page, "#clip-refused", "wav, flac, ogg, mp3, m4a, mp4, webm or aac")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.4")
    page.set_input_files("#clip input[type=file]", str(tmp_path / "notes.pdf"))
    says(page, "#clip-refused", "wav, flac, ogg, mp3, m4a, mp4, webm or aac")
    says(page, "#generate", "First upload or record")


def encoded(container: str, codec: str) -> bytes:
    """Return four seconds of a tone."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=48_000, layout="mono")
        tone = (8000 * np.sin(np.arange(4 * 48_000) * 0.03)).astype("<i2")
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.rate, frame.pts = 48_000, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    "name, kind, container, codec",
    [
        ("call.webm", "video/webm", "webm", "libopus"),
        ("memo.mp4", "video/mp4", "mp4", "aac"),
        ("memo.m4a", "", "mp4", "aac"),
    ],
)
def test_a_clip_in_a_container_of_video_is_taken(page, api, name, kind, container, codec):
    page.select_option("#dialect", "en-US")
    page.fill("#text textarea", "Hello")
    drop(page, name, kind, encoded(container, codec))
    says(page, "#generate", "^Generate$")
    page.click("#generate")
    says(page, "#result .summary", "Real-time factor")
    assert api.asked[0]["prompt_audio"]["name"].endswith(name[-4:])
    assert page.locator("#clip-refused").count() == 0
