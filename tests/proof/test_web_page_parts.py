"""The web page's parts in a real Chromium, against a stand-in of the API: what tests/served has no time for."""

from __future__ import annotations

import re

import pytest
import soundfile

from cluster.demo import CLIP
from tests.helpers.browser import Asked
from tests.helpers.serving import tone
from tests.helpers.standin_api import TRACE
from tests.helpers.webpage import fill_in, generate, in_window, new_take, ready, says
from webui import examples

pytestmark = pytest.mark.proof

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1366, "height": 768}
#: Greys of Gradio's own controls: "or" in the clip's box, the ends of a slider, the placeholder of its clock.
GRADIOS_GREYS = re.compile(r'class="(or|min_value|max_value)\b')


@pytest.fixture
def open_page(browser, site_url, api):
    """Opens the page: `open_page(dark=True, locale="zh-CN", viewport=PHONE)`."""
    opened = []

    def open_one(dark: bool = False, locale: str = "en-GB", viewport: dict = DESKTOP):
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport=viewport, locale=locale, color_scheme=scheme)
        page = context.new_page()
        opened.append((context, Asked(page)))
        page.goto(site_url)
        ready(page)
        return page

    yield open_one
    for context, asked in opened:
        assert asked.hosts == {"127.0.0.1"}
        # Gradio's own player complains of a file that is no sound, and so it should.
        assert [text for text in asked.complaints if not text.startswith("Waveform load error: MediaError")] == []
        context.close()


@pytest.fixture
def page(open_page):
    return open_page()


def voice(name: str = "anna", dialect: str = "zh-CN", number: int = 0) -> dict:
    return {
        "id": f"voice_{number}",
        "name": name,
        "dialect": dialect,
        "consent": {"agreed": "She agreed to tests.", "at": "2026-11-25T22:20:00Z"},
        "clip": {"seconds": 7.9, "sample_rate": 24_000, "format": "flac", "bytes": 1000},
    }


def choose_voice(page, name: str) -> None:
    page.get_by_label("Stored voice").first.check()
    page.click("#voice input")
    page.get_by_role("option", name=name).click()
    page.locator("#voice-facts p").first.wait_for()


def chosen(page) -> str:
    return page.eval_on_selector("#dialect", "select => select.value")


def top(page, selector: str) -> float:
    return page.locator(selector).bounding_box()["y"]


def test_one_click_fills_in_an_example_of_each_language_that_is_spoken(page, api):
    buttons = page.locator("#examples button:visible")
    assert buttons.all_inner_texts() == ["普通话", "English (US)", "日本語"], "the engine's, and not Korean"
    for name, code in (("日本語", "ja-JP"), ("普通话", "zh-CN")):
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_function("code => document.querySelector('#dialect').value === code", arg=code)
        assert page.input_value("#text textarea") == examples.SENTENCES[code]
        says(page, "#generate", "^Generate$")
        generate(page)
    assert [form["dialect"] for form in api.asked] == ["ja-JP", "zh-CN"]
    assert {form["prompt_audio"]["bytes"] for form in api.asked} == {CLIP.stat().st_size}, "the clip that ships"


def test_an_example_leaves_a_clip_and_a_voice_alone(page, api, tmp_path):
    own = tmp_path / "own.wav"
    own.write_bytes(tone(seconds=5))
    page.set_input_files("#clip input[type=file]", str(own))
    says(page, "#clip-facts", "5.0 s, 24 kHz")
    page.get_by_role("button", name="English (US)", exact=True).click()
    says(page, "#generate", "^Generate$")
    generate(page)
    assert api.asked[0]["prompt_audio"]["bytes"] == own.stat().st_size
    api.voices.append(voice())
    choose_voice(page, "anna")
    page.get_by_role("button", name="日本語", exact=True).click()
    page.wait_for_function("document.querySelector('#dialect').value === 'ja-JP'")
    generate(page)
    assert api.asked[1]["voice"] == "voice_0" and "prompt_audio" not in api.asked[1]


def test_the_text_comes_first_and_a_line_to_read_stands_at_the_recorder(page):
    assert top(page, "#text") < top(page, "#dialect") < top(page, "#source") < top(page, "#clip")
    assert in_window(page, "#dialect"), "at 1366 × 768"
    line = page.get_by_text(examples.READ_ALOUD["en"])
    assert line.is_visible()
    page.locator("#clip [aria-label*=icrophone]").or_(page.get_by_label("Record audio")).first.click()
    page.locator("#clip .record").click()
    page.wait_for_timeout(1500)
    assert line.is_visible(), "while it records"
    page.wait_for_timeout(2000)
    page.locator("#clip .stop-button:visible, #clip button:has-text('Stop'):visible").first.click()
    says(page, "#clip-facts", r"3\.\d s, \d+(\.\d)? kHz")
    line.wait_for(state="hidden")


@pytest.mark.parametrize(
    "content, facts, fault",
    [
        (tone(rate=8000), "4.0 s, 8 kHz", "minimum required 16000Hz"),
        (tone(seconds=2), "2.0 s, 24 kHz", "it must be 3 to 15 s"),
        (b"no audio at all" * 20, None, "can't be read"),
    ],
)
def test_a_clip_is_checked_as_soon_as_it_is_there(page, api, tmp_path, content, facts, fault):
    (tmp_path / "clip.wav").write_bytes(content)
    page.set_input_files("#clip input[type=file]", str(tmp_path / "clip.wav"))
    says(page, "#problem-clip .problem", fault)
    if facts:
        says(page, "#clip-facts", facts)
    assert not page.locator("#clip-facts .good").count() and not api.asked
    page.locator("#clip button[aria-label='Clear']").click()
    page.locator("#problem-clip .problem").wait_for(state="detached")
    page.set_input_files("#clip input[type=file]", str(CLIP))
    says(page, "#clip-facts .good", "✓ 6.6 s, 24 kHz")


def test_a_take_is_downloaded_in_any_format_under_a_name_that_people_can_read(page, api):
    page.get_by_role("button", name="普通话", exact=True).click()
    says(page, "#generate", "^Generate$")
    generate(page)
    for extension, kind in (("wav", "WAV"), ("mp3", "MP3"), ("flac", "FLAC"), ("opus", "OGG")):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download {extension}").click()
        assert download.value.suggested_filename == f"傍晚的港口很安静-远处传来几声汽笛_zh-CN_seed-0.{extension}"
        info = soundfile.info(download.value.path())
        assert info.format == kind and info.duration == pytest.approx(2, abs=0.1)


def test_ten_takes_stay_and_two_are_heard_side_by_side(page, api):
    fill_in(page)
    generate(page)
    for _ in range(10):  # again with another seed, ten times
        with new_take(page):
            page.locator(".newest .again").click()
    seeds = [form["seed"] for form in api.asked]
    assert len(seeds) == 11 and len(set(seeds)) == 11 and {form["text"] for form in api.asked} == {"Hello there."}
    assert page.locator(".take").count() == 10
    says(page, ".takes summary", r"Earlier takes \(9\)")
    says(
        page,
        ".newest .settings",
        f"English \\(US\\) · American English · own clip · speed 1 · seed {seeds[-1]} · 2.0 s",
    )
    assert page.locator(".newest .to-trace").get_attribute("href").endswith(TRACE)

    page.locator(".takes summary").click()
    page.locator(".newest input").check()
    page.locator(".takes details input").nth(4).check()
    sides = page.locator(".comparison .side")
    assert sides.count() == 2
    assert sides.nth(0).locator(".differs").all_inner_texts() == [f"Seed\n{seeds[10]}"]
    assert sides.nth(1).locator(".differs").all_inner_texts() == [f"Seed\n{seeds[5]}"]
    playing = "[...document.querySelectorAll('.takes audio')].map(audio => !audio.paused)"
    page.locator(".swap").click()
    page.wait_for_function("document.querySelectorAll('.side audio')[0].currentTime > 0.3")
    page.locator(".swap").click()
    page.wait_for_function("document.querySelectorAll('.side audio')[1].currentTime > 0.3")
    assert page.evaluate(playing).count(True) == 1 and not page.evaluate(playing)[-2], "one sound at a time"
    page.locator(".takes details input").nth(7).check()  # a third one takes the place of the first
    assert sides.nth(1).locator(".differs").all_inner_texts() == [f"Seed\n{seeds[2]}"]
    assert page.locator(".takes input:checked").count() == 2


def test_the_settings_of_a_take_come_back(page, api):
    fill_in(page, text="The first text.")
    page.fill("#seed input", "77")
    page.get_by_label("Natural-language control").check()
    page.get_by_role("button", name="happy").click()
    says(page, "#generate", "^Generate$")
    generate(page)
    page.fill("#text textarea", "Another text.")
    page.select_option("#dialect", "ja-JP")
    page.get_by_label("Fast cloning").check()
    page.locator(".newest .reuse").click()
    page.wait_for_function("document.querySelector('#text textarea').value === 'The first text.'")
    page.wait_for_function("document.querySelector('#dialect').value === 'en-US'")
    assert page.input_value("#seed input") == "77" and page.input_value("#style textarea, #style input") == "happily"
    generate(page)
    first, second = api.asked
    assert first == second


def test_a_take_that_the_server_has_forgotten_says_so(page, api):
    fill_in(page)
    generate(page)
    page.evaluate(
        """() => {
        const takes = JSON.parse(sessionStorage.getItem('cosygraph.takes'));
        takes[0].token = '0'.repeat(32);
        sessionStorage.setItem('cosygraph.takes', JSON.stringify(takes));
    }"""
    )
    # Any answer that is no sound: of a 404 the browser would complain.
    page.route("**/takes/*", lambda route: route.fulfill(body="This take is not here.", content_type="text/plain"))
    page.reload()
    ready(page)
    page.get_by_text("This take is older than an hour").wait_for()
    assert not page.locator(".take .downloads").is_visible() and page.locator(".take .again").is_visible()


def test_the_form_and_the_takes_outlive_a_reload_and_a_switch_of_the_language(page, api):
    fill_in(page, text="Kept for later.", dialect="ja-JP")
    page.get_by_label("Natural-language control").check()
    page.fill("#style textarea, #style input", "slowly")
    page.fill("#seed input", "5")
    page.locator("#seed input").blur()
    generate(page)
    page.get_by_role("button", name="More: transcript, API key").click()
    page.get_by_label("API key").fill("a-key-of-mine")
    for go in (
        page.reload,
        page.get_by_role("link", name="中文").click,
        page.get_by_role("link", name="English").click,
    ):
        go()
        ready(page)
        says(page, "#clip-facts .good", "✓ 6.6")
        assert page.input_value("#text textarea") == "Kept for later." and chosen(page) == "ja-JP"
        assert page.input_value("#style textarea, #style input") == "slowly" and page.input_value("#seed input") == "5"
        says(page, "#generate", "^(Generate|生成语音)$")
        assert page.locator(".take").count() == 1 and page.locator(".take .said").inner_text() == "Kept for later."
    assert "a-key-of-mine" not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    generate(page)
    assert api.asked[0] == api.asked[1]


def test_a_stored_voice_outlives_a_reload_too(page, api):
    api.voices += [voice(), voice("bert", "en-US", 1)]
    choose_voice(page, "bert")
    page.reload()
    ready(page)
    page.locator("#voice-facts p").first.wait_for()
    assert page.input_value("#voice input") == "bert · en-US" and chosen(page) == "en-US"


def test_ctrl_enter_of_an_input_method_asks_for_nothing(page, api):
    fill_in(page)
    press = """said => document.querySelector('#text textarea').dispatchEvent(
        new KeyboardEvent('keydown', {key: 'Enter', ctrlKey: true, bubbles: true, ...said}))"""
    for said in ({"isComposing": True}, {"keyCode": 229}):
        page.evaluate(press, said)
    page.wait_for_timeout(500)
    assert api.asked == []
    page.evaluate(press, {})
    says(page, "#result .summary", "Real-time factor")
    assert len(api.asked) == 1


def test_a_double_click_asks_once(page, api):
    api.pause_s = 0.1
    fill_in(page)
    page.dblclick("#generate")
    page.locator("#result .summary").wait_for(timeout=20_000)
    page.locator(".newest .again").dblclick()
    page.wait_for_function("document.querySelectorAll('.take').length === 2")
    page.wait_for_timeout(500)
    assert len(api.asked) == 2
    generate(page)
    assert len(api.asked) == 3, "a later click asks again"


def test_a_voice_is_heard_renamed_and_deleted(page, api):
    api.voices += [voice(), voice("bert", "en-US", 1)]
    choose_voice(page, "anna")
    assert page.locator("#voice-facts p").all_inner_texts() == [
        "普通话 · Mandarin; from 7.9 s of reference",
        "Consent of 2026-11-25: She agreed to tests.",
    ]
    assert chosen(page) == "zh-CN", "its own dialect, as none was chosen"
    page.click("#preview")
    page.locator("#preview-sound audio[autoplay]").wait_for()
    page.evaluate("document.querySelector('#preview-sound audio').play()")  # a slow machine outlasts the click's leave
    page.wait_for_function("document.querySelector('#preview-sound audio').currentTime > 0.2")
    assert (api.asked[0]["voice"], api.asked[0]["dialect"]) == ("voice_0", "zh-CN")
    assert page.locator(".take").count() == 0, "a preview is no take"

    page.get_by_role("button", name="Rename, fit or delete").click()
    api.refusal = (409, {"message": "This name is taken.", "code": "voice_name_taken", "param": "name"})
    page.fill("#new-name textarea, #new-name input", "bert")
    page.click("#rename")
    says(page, "#problem-new-name [role=alert]", "This name is taken")
    api.refusal = None
    page.fill("#new-name textarea, #new-name input", "carla")
    page.locator("#problem-new-name .problem").wait_for(state="detached")
    page.click("#rename")
    says(page, "#kept", "Renamed: carla")
    assert api.voices[0]["name"] == "carla" and page.input_value("#voice input") == "carla · zh-CN"

    page.click("#delete")
    says(page, "#delete", "Delete carla for good")
    assert len(api.voices) == 2, "not at the first press"
    api.refusal = (403, {"message": "Stored with another key.", "code": "voice_not_yours", "param": "voice"})
    page.click("#delete")
    says(page, "#problem-voice [role=alert]", "Stored with another key")
    says(page, "#delete", "^Delete$")
    api.refusal = None
    page.click("#delete")
    says(page, "#delete", "Delete carla for good")
    page.click("#delete")
    says(page, "#kept", "Deleted: carla")
    assert [one["name"] for one in api.voices] == ["bert"]
    says(page, "#generate", "First write what to say")


def test_a_voice_offers_its_own_dialect(page, api):
    api.voices += [voice(), voice("bert", "ko-KR", 1)]
    page.select_option("#dialect", "en-US")
    choose_voice(page, "anna")
    assert chosen(page) == "en-US", "what a person has chosen stays"
    page.get_by_role("button", name="Use the voice's own dialect: 普通话 · Mandarin").click()
    page.wait_for_function("document.querySelector('#dialect').value === 'zh-CN'")
    page.locator("#use-own").wait_for(state="hidden")
    page.click("#voice input")
    page.get_by_role("option", name="bert").click()
    says(page, "#voice-facts", "한국어")
    assert chosen(page) == "zh-CN" and not page.locator("#use-own").is_visible(), "this engine can't speak it"


def numbers(page, selector: str) -> list[str]:
    return page.locator(selector).all_inner_texts()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_seven_pieces_are_readable(open_page, api, viewport):
    api.pieces = 7
    page = open_page(viewport=viewport)
    page.get_by_role("button", name="English (US)", exact=True).click()
    says(page, "#generate", "^Generate$")
    generate(page)
    names = [name.split("\n")[0] for name in numbers(page, ".waterfall .row:not(.axis) .name")]
    assert names == ["Prepare reference", "Extract voice", *(f"Piece {piece}" for piece in range(1, 8))]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".waterfall summary").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the open table scrolls in itself"
    overlapping = page.evaluate(
        """() => {
        const boxes = [...document.querySelectorAll('.axis .track span')].map(tick => tick.getBoundingClientRect())
            .filter(box => box.width > 0);
        return boxes.some((box, at) => at && box.left < boxes[at - 1].right + 2);
    }"""
    )
    assert not overlapping
    lines = page.evaluate(
        """() => [...document.querySelectorAll('.waterfall .track')].map(track => {
        const line = getComputedStyle(track, '::after'), box = track.getBoundingClientRect();
        const left = Math.round(box.left + parseFloat(line.left));
        return [line.borderLeftStyle, left, Math.round(box.height - parseFloat(line.height))];
    })"""
    )
    assert len(lines) == 10 and len({tuple(line) for line in lines}) == 1, "one line through the axis and all rows"
    assert lines[0][0] == "solid" and lines[0][2] == 0


def test_the_axis_stays_when_many_rows_scroll(page, api):
    api.pieces, api.chunks = 20, 1
    page.get_by_role("button", name="English (US)", exact=True).click()
    says(page, "#generate", "^Generate$")
    generate(page)
    page.eval_on_selector(".waterfall .rows", "rows => { rows.scrollTop = rows.scrollHeight; }")
    page.locator(".waterfall .row").last.scroll_into_view_if_needed()
    assert page.eval_on_selector(".waterfall .rows", "rows => rows.scrollTop") > 50, "or nothing was tried"
    rows, axis = page.locator(".waterfall .rows").bounding_box(), page.locator(".waterfall .axis").bounding_box()
    assert axis["y"] == pytest.approx(rows["y"], abs=1)


def test_one_thing_has_one_number(page, api):
    api.pause_s = 0.05
    page.get_by_role("button", name="English (US)", exact=True).click()
    says(page, "#generate", "^Generate$")
    generate(page)
    of_progress, of_waterfall = numbers(page, "#progress .took"), numbers(page, ".waterfall .row:not(.axis) .took")
    assert len(of_progress) == 4 and of_progress == of_waterfall
    page.locator(".waterfall summary").click()
    table = [row.split("\t") for row in numbers(page, ".waterfall tbody tr")]
    assert [f"{float(row[6]):.0f} ms" for row in table] == of_waterfall
    first = dict(zip(numbers(page, ".figures dt"), numbers(page, ".figures dd"), strict=True))["First audio"]
    says(page, ".waterfall .legend", f"first audio {first}")


def test_accordions_say_whether_they_are_open_and_skips_are_round(page):
    help_ = page.get_by_role("button", name="Pronunciation")
    assert help_.get_attribute("aria-expanded") == "false"
    help_.click()
    page.wait_for_function("document.querySelector('#help button.label-wrap').getAttribute('aria-expanded') === 'true'")
    help_.click()
    page.wait_for_function(
        "document.querySelector('#help button.label-wrap').getAttribute('aria-expanded') === 'false'"
    )
    page.set_input_files("#clip input[type=file]", str(CLIP))
    says(page, "#clip-facts", "6.6 s")
    labels = page.evaluate("[...document.querySelectorAll('#clip button[aria-label]')].map(b => b.ariaLabel)")
    assert any("second" in label for label in labels) and not any(re.search(r"\d\.\d\d", label) for label in labels)


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_the_page_says_that_it_is_coming(browser, site_url, api, locale):
    context = browser.new_context(locale=locale)
    page = context.new_page()
    page.route("**/assets/*.js", lambda route: route.abort())  # a line so slow that no script comes
    page.goto(site_url)
    assert re.search("loading|加载中", page.locator("#coming").inner_text())
    page.unroute("**/assets/*.js")
    page.reload()
    ready(page)
    assert not page.locator("#coming").is_visible()
    context.close()


def with_everything(page, api, words: dict[str, str]) -> None:
    """Bring every part of the page into view: takes, a comparison, a voice with its tools, all boxes open."""
    page.get_by_role("button", name="English (US)", exact=True).click()
    says(page, "#generate", f"^{words['generate']}$")
    generate(page)
    with new_take(page):
        page.locator(".newest .again").click()
    page.locator(".takes summary").click()
    for box in page.locator(".takes input").all():
        box.check()
    page.locator("#mode input").nth(1).check()
    page.locator("#source input").nth(1).check()
    page.click("#voice input")
    page.get_by_role("option", name="anna").click()
    page.locator("#voice-facts p").first.wait_for()
    page.click("#preview")
    page.locator("#preview-sound audio").wait_for()
    for box in page.locator("button.label-wrap:visible").all():
        box.click()
    page.locator("#dialect-box summary").click()
    page.locator(".waterfall summary").click()
    page.wait_for_timeout(500)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_but_greys_of_gradio(open_page, api, dark):
    from axe_playwright_python.sync_playwright import Axe

    from webui.words import TEXTS

    def findings(page) -> list[str]:
        found = Axe().run(page).response["violations"]
        return [
            f"{rule['id']}: {node['html'][:200]}"
            for rule in found
            for node in rule["nodes"]
            if not (rule["id"] == "color-contrast" and GRADIOS_GREYS.search(node["html"]))
        ]

    api.voices.append(voice())
    page = open_page(dark=dark)
    assert findings(page) == []
    with_everything(page, api, TEXTS["en"])
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # colours fade
    assert findings(page) == []
    api.refusal = (400, {"message": "Spelled wrong.", "code": "text_pronunciation", "param": "text"})
    page.locator("#mode input").nth(0).check()
    says(page, "#generate", "^Generate$")
    page.click("#generate")
    says(page, "#problem-text .problem", "Spelled wrong")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # colours fade
    assert findings(page) == []


def test_the_chinese_page_is_in_chinese(open_page, api):
    from webui.words import TEXTS

    api.voices.append(voice() | {"consent": {"agreed": "同意用于测试。", "at": "2026-11-25T22:20:00Z"}})
    page = open_page(locale="zh-CN")
    with_everything(page, api, TEXTS["zh"])
    said = (
        page.inner_text("body").replace(examples.SENTENCES["en-US"], "").replace("I read[R][EH1][D] it yesterday.", "")
    )
    names = r"English \(US\)|English \(UK\)|-service|Cosygraph"
    assert re.findall(r"[A-Za-z]+ [a-z]+ [a-z]+", re.sub(names, "", said)) == []
    spoken = page.evaluate("[...document.querySelectorAll('[aria-label]')].map(e => e.ariaLabel)")
    own = [label for label in spoken if label not in (examples.SENTENCES["en-US"], "English")]
    assert not [label for label in own if re.search(r"[A-Za-z]+ [a-z]+ [a-z]+", label)]


def test_a_request_that_fails_leaves_what_had_come(page, api):
    fill_in(page)
    generate(page)
    api.late_error = {"message": "vocoder-service is not available.", "type": "stage_unavailable", "code": None}
    page.click("#generate")
    says(page, "#result [role=alert]", "vocoder-service is not available")
    says(page, ".newest .settings", "0.5 s · only the beginning")
    assert page.locator(".take").count() == 2 and page.locator(".newest .to-trace").is_visible()
    api.late_error, api.chunks, api.pause_s = None, 1000, 0.1
    page.click("#generate")
    page.wait_for_function("Number(document.querySelector('.live').dataset.chunks) > 3")
    page.click("#stop")
    page.wait_for_function("document.querySelectorAll('.take').length === 3")
    says(page, ".newest .settings", "only the beginning")
