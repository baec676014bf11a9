"""Tests the web page without a browser: texts, waterfall, progress, and one run against a stand-in of the API."""

from __future__ import annotations

import re
import string
import threading
import time
from functools import cache
from pathlib import Path

import pytest

from cluster.demo import CLIP
from engines import contract
from engines.cosyvoice3.prompts import _style
from engines.embedded.style import Delivery, interpret
from speech.dialects import DIALECTS
from speech.limits import CLIP_FORMATS
from speech.wav_header import mark_of, wav_header
from tests.helpers.standin_api import MARK, RATE, TRACE
from webui import dialects, problems, waterfall
from webui.client import ApiError, Done, Stage, Timing
from webui.problems import Problem
from webui.progress import Progress
from webui.run import Attempt, Wish, count, failed, run, stopped
from webui.under_way import UnderWay
from webui.words import _TEXTS, CLIP_ENDINGS, HELP, LANGUAGES, PRESETS, TEXTS, language_of

ZH, EN = TEXTS["zh"], TEXTS["en"]


def wish(**changes) -> Wish:
    return Wish(
        **{
            "source": "clip",
            "clip": str(CLIP),
            "voice": None,
            "dialect": "en-US",
            "text": "Hello",
            "mode": "fast",
            "style": None,
            "prompt_text": None,
            "speed": 1.0,
            "seed": 3,
            "long_form": False,
            "key": None,
        }
        | changes
    )


def done(*stages: Timing, **changes) -> Done:
    return Done(
        **{
            "trace_id": TRACE,
            "trace_url": None,
            "seconds": 2.0,
            "first_audio_ms": 300.0,
            "total_ms": 800.0,
            "real_time_factor": 0.4,
            "stages": stages,
        }
        | changes
    )


class TestWords:
    def test_every_text_is_there_in_both_languages_with_the_same_blanks(self):
        def blanks(text: str) -> set:
            return {name for _, name, _, _ in string.Formatter().parse(text) if name}

        for name, texts in _TEXTS.items():
            assert len(texts) == 2 and all(texts), name
            assert blanks(texts[0]) == blanks(texts[1]), name
        assert LANGUAGES.keys() == TEXTS.keys() == HELP.keys() == PRESETS.keys()

    def test_the_english_page_is_in_english(self):
        chinese = {name: text for name, text in EN.items() if re.search(r"[\u4e00-\u9fff]", text)}
        assert not chinese
        assert set(EN.values()) >= {"Pronunciation", "Stop playback", "⚄ Random seed", "Generation failed"}
        assert set(EN.values()) >= {"Play while generating", "waiting for the device"}

    def test_the_chinese_page_leaves_no_sentence_in_english(self):
        assert not {name for name, text in ZH.items() if text == EN.get(name)}
        assert all(re.search(r"[\u4e00-\u9fff]", text) for name, text in ZH.items() if name != "ms")

    def test_the_clip_formats_are_those_that_the_api_reads(self):
        assert CLIP_FORMATS in EN["clip"] and CLIP_FORMATS in EN["clip_refused"]
        assert CLIP_ENDINGS == (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".mp4", ".webm", ".aac")
        for ending in CLIP_ENDINGS:
            assert ending[1:] in ZH["clip"]

    @pytest.mark.parametrize("told", sorted({told for presets in PRESETS.values() for _, told in presets}))
    def test_every_preset_is_understood_by_both_engines(self, told):
        assert interpret(told) != Delivery()
        assert _style(told)

    def test_an_english_preset_reaches_cosyvoice3_as_the_sentence_it_was_trained_on(self):
        chinese, english = (dict(PRESETS[language][:7]) for language in ("zh", "en"))
        assert [_style(told) for told in english.values()] == list(chinese.values())
        assert all(told.isascii() for _, told in PRESETS["en"])

    @pytest.mark.parametrize(
        "accept, language",
        [
            ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
            ("en-GB", "en"),
            ("de,zh-TW;q=0.9,en;q=0.8", "zh"),
            ("fr", "en"),
            ("en;q=0.1, zh;q=0.2", "zh"),
            ("zh;q=0, en", "en"),
            ("", "en"),
            (None, "en"),
            ("zh;q=x", "en"),
            (";;,,", "en"),
        ],
    )
    def test_the_browser_chooses_the_language(self, accept, language):
        assert language_of(accept) == language


class TestDialects:
    ANSWER = {
        "engine": {"name": "embedded", "version": "1", "notice": "A <stand-in>."},
        "dialects": DIALECTS.public(frozenset({"zh-CN", "ja-JP"})),
    }

    def test_nothing_is_preselected_and_what_cannot_be_spoken_cannot_be_chosen(self):
        html = dialects.options(self.ANSWER["dialects"], EN, "en")
        assert html.startswith('<option value="" selected disabled>Choose…</option>')
        assert html.count("selected") == 1
        assert '<option value="zh-CN">普通话 · Mandarin</option>' in html
        assert html.count("<option") == 3 and "四川话" not in html

    def test_the_others_are_folded_under_what_they_need(self):
        names = len(list(DIALECTS)) - 2
        html = dialects.properties(self.ANSWER, EN, "en")["unspoken"]
        assert f"<summary>{names} more need CosyVoice3</summary>" in html and "<li>四川话 · Sichuanese</li>" in html
        assert html.count("<li>") == names
        itself = dialects.properties(self.ANSWER | {"engine": {"name": "cosyvoice3"}}, EN, "en")["unspoken"]
        assert "CosyVoice3" not in itself and "not spoken by this engine" in itself
        assert dialects.unspoken(DIALECTS.public(frozenset({one.code for one in DIALECTS})), EN, "en", "x") == ""

    @pytest.mark.parametrize("engine", sorted(contract.ENGINES))
    def test_every_engines_notice_is_in_the_pages_language(self, engine):
        assert re.search(r"[\u4e00-\u9fff]", ZH[f"notice_{engine}"])
        answer = self.ANSWER | {"engine": {"name": engine, "notice": "A <notice>."}}
        assert "A &lt;notice&gt;." in dialects.properties(answer, EN, "en")["note"]
        assert ZH[f"notice_{engine}"] in dialects.properties(answer, ZH, "zh")["note"]

    def test_a_dialect_that_cannot_be_spoken_cannot_be_chosen_by_the_page_either(self):
        assert dialects.choice(self.ANSWER, "ja-JP", EN, "en")["value"] == "ja-JP"
        assert dialects.choice(self.ANSWER, "zh-Sichuan", EN, "en")["value"] is None
        assert dialects.choice(self.ANSWER, "ja-JP", EN, "en").keys() == {"value", "options", "unspoken", "note"}

    def test_an_operators_own_name_is_text(self):
        own = {"code": '"><b>', "name": "<script>", "language": "xx"}
        html = dialects.options([own | {"supported": True}], ZH, "zh") + dialects.unspoken([own], ZH, "zh", "x")
        assert "&lt;script&gt;" in html and "<script>" not in html and "<b>" not in html


class TestWaterfall:
    MEL = Timing("GENERATE_MEL", "tts-service", 200, 400, queue_ms=40, batch_wait_ms=60, batch_size=3, compute_ms=280)

    def test_the_parts_of_a_bar_add_up_to_it(self):
        assert waterfall.parts(self.MEL) == {"queue": 40, "batch": 60, "compute": 280, "other": 20}
        late = Timing("VOCODE_WAV", "vocoder-service", 0, 100, queue_ms=-1, batch_wait_ms=30, compute_ms=500)
        assert waterfall.parts(late) == {"queue": 0, "batch": 30, "compute": 70, "other": 0}

    def test_a_bar_stands_where_its_time_was(self):
        html = waterfall.draw(done(self.MEL), EN)
        assert 'style="left:25.000%;width:50.000%;' in html
        assert 'class="part queue" style="width:10.000%"' in html
        assert 'class="part compute" style="width:70.000%"' in html
        assert 'class="rows marked" aria-hidden="true" tabindex="-1" style="--first:37.500%"' in html
        assert "<td>40</td><td>60</td><td>280</td><td>20</td><td>400</td><td>3</td>" in html

    def test_a_stage_that_outlasts_the_total_still_fits(self):
        html = waterfall.draw(done(self.MEL, total_ms=10, first_audio_ms=None), EN)
        assert 'style="left:33.333%;width:66.667%;' in html and "--first" not in html and 'class="first"' not in html

    def test_seven_pieces_are_seven_rows_with_a_lane_for_each_of_their_stages(self):
        pieces = range(1, 8)
        stages = [Timing("PREPROCESS_AUDIO", "audio-service", 0, 20), Timing("EXTRACT_SPEAKER", "e", 20, 80)]
        stages += [Timing("GENERATE_MEL", "tts-service", 100 * piece, 100, piece) for piece in pieces]
        stages += [Timing("VOCODE_WAV", "vocoder-service", 100 * piece + 80, 50, piece) for piece in pieces]
        html = waterfall.draw(done(*stages, total_ms=1_000), EN)
        names = re.findall(r'<span class="name">(?!</span>)([^<]+)', html)
        assert names == ["Prepare reference", "Extract voice", *(f"Piece {piece}" for piece in pieces)]
        assert "A row a piece, from top to bottom: Generate speech, Make waveform" in html
        assert html.count("top:calc(0.0% + 2px);height:calc(50.0% - 4px)") == 7
        assert html.count("top:calc(50.0% + 2px);height:calc(50.0% - 4px)") == 7
        assert html.count('<span class="took">130 ms</span>') == 7, "from the start of one to the end of the other"
        assert html.index("axis") < html.index("Piece 1"), "above the rows, where it stays"

    @pytest.mark.parametrize(
        "total_ms, ticks",
        [(800, "0 200 400 600 800 ms"), (1500, "0.00 0.38 0.75 1.12 1.50 s"), (40_000, "0 10 20 30 40 s")],
    )
    def test_the_axis_is_in_milliseconds_or_seconds(self, total_ms, ticks):
        html = waterfall.draw(done(self.MEL, total_ms=total_ms), EN)
        axis = html[html.index('class="row axis"') :]
        found = re.findall(r">([\d.]+|ms|s)</span>", axis[: axis.index("row", 20)])
        assert " ".join(found) == ticks

    def test_whatever_the_service_is_called_is_text(self):
        html = waterfall.draw(done(Timing("<i>", '"><script>', 0, 0)), ZH)
        assert "<script>" not in html and "<i>" not in html

    def test_no_stages_no_picture(self):
        assert waterfall.draw(done(), EN) == ""


class TestProgress:
    def test_pieces_are_counted(self):
        progress = Progress()
        progress.take(Stage("GENERATE_MEL", "tts-service", "started", 1, 3))
        progress.take(Stage("GENERATE_MEL", "tts-service", "done", 1, 3, 250.4))
        assert "1 of 3 pieces" in progress.html(EN)
        assert "250 ms" not in progress.html(EN), "the time of one piece is not the time of the stage"
        assert progress.html(EN).count(">waiting<") == 3

    def test_a_known_voice_skips_two(self):
        progress = Progress()
        for name in ("GENERATE_MEL", "VOCODE_WAV"):
            progress.take(Stage(name, "s", "done", ms=1))
        progress.finish("done")
        assert progress.html(EN).count("skipped: this voice is known") == 2

    @staticmethod
    def states(progress: Progress) -> list[str]:
        return re.findall(r'<li class="(\w+)">', progress.html(EN))

    @pytest.mark.parametrize("ending, state", [("failed", "failed"), ("stopped", "stopped")])
    def test_after_the_end_no_stage_waits(self, ending, state):
        progress = Progress()
        progress.take(Stage("PREPROCESS_AUDIO", "audio-service", "done", ms=1))
        progress.take(Stage("EXTRACT_SPEAKER", "embedding-service", "started"))
        progress.finish(ending)
        assert self.states(progress) == ["done", state, "not_run", "not_run"]
        assert "waiting" not in progress.html(EN) and "not run" in progress.html(EN)

    def test_of_two_stages_under_way_the_one_that_the_error_names_failed(self):
        progress = Progress()
        progress.take(Stage("GENERATE_MEL", "tts-service", "done", 1, 3, 9))
        progress.take(Stage("GENERATE_MEL", "tts-service", "started", 2, 3))
        progress.take(Stage("VOCODE_WAV", "vocoder-service", "started", 1, 3))
        progress.finish("failed", "vocoder-service is not available.")
        assert self.states(progress) == ["not_run", "not_run", "stopped", "failed"]
        assert "stopped · 1 of 3 pieces" in progress.html(EN)

    def test_the_service_at_fault_is_believed_before_the_message(self):
        progress = Progress()
        progress.take(Stage("GENERATE_MEL", "tts-service", "started"))
        progress.take(Stage("VOCODE_WAV", "vocoder-service", "started"))
        progress.finish("failed", "vocoder-service got nothing", "tts-service")
        assert self.states(progress)[2:] == ["failed", "stopped"]

    def test_its_numbers_are_those_of_the_waterfall_and_no_longer_than_the_request(self):
        progress = Progress()
        for piece in (1, 2):
            progress.take(Stage("GENERATE_MEL", "tts-service", "done", piece, 2, 9_000))
        timings = [Timing("GENERATE_MEL", "tts-service", start, 1_000, piece) for piece, start in ((1, 0), (2, 500))]
        progress.finish("done", timings=timings)
        assert '<span class="took">1.50 s</span>' in progress.html(EN), "the second began while the first worked"

    def test_where_it_names_none_both_did(self):
        progress = Progress()
        for name in ("GENERATE_MEL", "VOCODE_WAV"):
            progress.take(Stage(name, f"the {name} service", "started"))
        progress.finish("failed", "no answer within the deadline")
        assert self.states(progress)[2:] == ["failed", "failed"]

    def test_a_stage_of_another_engine_is_shown_and_is_text(self):
        progress = Progress()
        progress.take(Stage("<b>", "<i>", "done", ms=1))
        assert "&lt;b&gt;" in progress.html(EN) and "<i>" not in progress.html(EN)


class TestProblems:
    def test_an_error_goes_to_its_field_in_the_pages_language(self):
        error = ApiError("It is 2.1 s long.", code="clip_too_short", param="prompt_audio", status=400)
        assert problems.of(error, EN) == Problem("It is 2.1 s long.", "clip")
        chinese = problems.of(error, ZH)
        assert (chinese.text[:4], chinese.field, chinese.original) == ("参考音频", "clip", "It is 2.1 s long.")
        html = failed(error, None, ZH)
        assert chinese.text in html and '<small lang="en">It is 2.1 s long.</small>' in html and ZH["failed"] in html

    def test_an_error_without_a_translation_keeps_its_words(self):
        error = ApiError("New <here>.", code="of_tomorrow", param="nothing_known")
        assert problems.of(error, ZH) == Problem("New <here>.")
        assert "New &lt;here&gt;." in failed(error, None, ZH) and "<small" not in failed(error, None, ZH)

    def test_an_error_without_a_code_is_translated_by_its_type(self):
        error = ApiError("tts-service is not available.", type="stage_unavailable", status=503)
        assert problems.of(error, ZH) == Problem(ZH["error_stage_unavailable"], None, error.message)

    @pytest.mark.parametrize("code", [*sorted(problems.KEY_CODES), None])
    def test_an_error_of_the_key_goes_to_the_keys_field_and_names_no_header(self, code):
        for words in (ZH, EN):
            found = problems.of(ApiError("Send it as `Authorization: Bearer KEY`.", code=code, status=401), words)
            assert found.field == "key" and "Authorization" not in found.text and found.original is None

    @pytest.mark.parametrize("code", sorted(name.removeprefix("error_") for name in ZH if name.startswith("error_")))
    def test_every_translated_code_is_one_that_the_service_or_the_client_sends(self, code):
        assert code in sent_codes()

    def test_whatever_is_missing_is_said_at_its_field(self):
        assert problems.missing("wait_text", EN) == Problem(EN["wait_text"], "text")
        assert set(problems.MISSING) <= EN.keys() and set(problems.MISSING.values()) <= set(problems.PLACES)


@cache
def sent_codes() -> frozenset[str]:
    """Every word in quotes of the code that answers requests; `_check` of speech/text.py makes codes of two parts."""
    root = Path(__file__).resolve().parents[2]
    rooms = ("access", "deployments", "engines", "speech", "voices")
    files = [root / "webui/client.py", *(file for room in rooms for file in (root / room).rglob("*.py"))]
    words = {word for file in files for word in re.findall(r'"([a-z_]+)"', file.read_text())}
    return frozenset(words | {f"{kind}_{word}" for kind in ("text", "instruction", "transcript") for word in words})


class TestWish:
    @pytest.mark.parametrize(
        "changes, missing",
        [
            ({"dialect": None, "clip": None, "text": ""}, "wait_text"),
            ({"dialect": None, "clip": None}, "wait_dialect"),
            ({"clip": None}, "wait_clip"),
            ({"source": "voice"}, "wait_voice"),
            ({"text": " \n"}, "wait_text"),
            ({"mode": "instruct", "style": " "}, "wait_style"),
            ({"mode": "instruct", "style": "slowly"}, None),
            ({}, None),
        ],
    )
    def test_it_says_what_is_missing_first(self, changes, missing):
        assert wish(**changes).waits_for() == missing

    def test_only_what_the_chosen_source_and_mode_need_is_sent(self):
        form = wish(source="voice", voice="voice_1", style="slowly", prompt_text="hello").speech().form()
        assert not {"style_instruction", "prompt_text", "long_form"} & form.keys()
        assert (form["voice"], form["seed"], form["response_format"]) == ("voice_1", "3", "pcm")
        assert wish(seed=None).speech().seed is None

    @pytest.mark.parametrize(
        "text, long_form, sent", [("a" * 200, False, False), (" " + "a" * 201, False, True), ("a", True, True)]
    )
    def test_longer_text_is_sent_as_long_text_by_itself(self, text, long_form, sent):
        assert wish(text=text, long_form=long_form).speech().long_form is sent

    @pytest.mark.parametrize(
        "text, long_form, shown",
        [
            (None, False, '"count">0 / 200<'),
            (" e\u0301\n", False, '"count">1 / 200<'),
            ("a" * 201, False, '"count">201 / 5,000<'),
            ("a", True, '"count">1 / 5,000<'),
            ("a" * 5001, True, '"count over">5,001 / 5,000<'),
        ],
    )
    def test_the_counter_counts_as_the_api_does(self, text, long_form, shown):
        assert shown in count(text, long_form)

    def test_the_name_of_the_file_stays_here(self):
        assert wish().speech().clip.name == "clip.flac"


class TestRun:
    def shown(self, api, zipkin="http://127.0.0.1:9411", **changes) -> list:
        found = []
        for now in run(wish(**changes), api.url, zipkin, EN):
            found.append(now)
            if now.finished is not None:
                self.file = now.finished.wav
        return found

    def test_the_player_gets_every_chunk_once_and_the_file_all_of_them(self, api):
        api.chunks = 40
        shown = self.shown(api)
        values = [now.live for now in shown if now.live is not None]
        numbers = {int(number) for value in values for number in value["chunks"]}
        assert numbers == set(range(40)) and values[-1]["over"] and values[-1]["rate"] == RATE
        assert max(len(value["chunks"]) for value in values) == 16, "not more is sent again and again"
        assert len(self.file) == len(wav_header(RATE, MARK)) + 2 * RATE * 20 and mark_of(self.file) == MARK

    def test_the_result_has_figures_waterfall_and_the_trace(self, api):
        result = self.shown(api)[-1].result
        assert "Real-time factor" in result and 'class="part compute"' in result
        assert f'href="http://127.0.0.1:9411/zipkin/traces/{TRACE}"' in result

    def test_a_trace_that_was_not_kept_says_how_it_would_be(self, api):
        api.keeps_trace = False
        result = self.shown(api)[-1].result
        assert "--sampling 1" in result and TRACE in result and "href" not in result

    def test_an_address_that_is_no_page_is_no_link(self, api):
        api.zipkin = "javascript:alert(1)//"
        assert "javascript" not in self.shown(api)[-1].result

    def test_an_error_keeps_its_words_and_leads_to_its_trace(self, api):
        api.refusal = (400, {"message": "The clip <b>is</b> too short; record 3 to 15 s."})
        last = self.shown(api)[-1]
        assert last.over and "The clip &lt;b&gt;is&lt;/b&gt; too short; record 3 to 15 s." in last.result
        assert f"/zipkin/traces/{TRACE}" in last.result and last.finished is None
        assert TRACE in self.shown(api, zipkin=None)[-1].result

    def test_one_in_the_middle_ends_the_player_too(self, api):
        api.late_error = {"message": "vocoder-service is not available."}
        last = self.shown(api)[-1]
        assert last.over and last.live["over"] and "vocoder-service is not available." in last.result
        assert '<li class="failed"><span class="dot" aria-hidden="true"></span><span class="name">Make waveform' in (
            last.progress
        )
        assert f"/zipkin/traces/{TRACE}" in last.result
        assert (last.finished.seconds, last.finished.whole) == (0.5, False), "what had come is not lost"
        assert last.finished.trace_url.endswith(TRACE) and mark_of(last.finished.wav) == MARK
        assert len(last.finished.wav) == len(wav_header(RATE, MARK)) + RATE

    def test_after_stop_the_stages_say_so_and_the_trace_is_linked(self, api):
        api.chunks = 1000
        attempt = Attempt()
        going = run(wish(), api.url, "http://127.0.0.1:9411", EN, attempt)
        while next(going).live is None:
            pass
        going.close()
        shown = stopped(attempt, "http://127.0.0.1:9411", EN)
        assert 'class="stopped"' in shown.progress and "waiting" not in shown.progress
        assert "Stopped." in shown.result and f"/zipkin/traces/{TRACE}" in shown.result
        assert shown.finished.seconds >= 0.5 and not shown.finished.whole and mark_of(shown.finished.wav) == MARK
        assert TRACE in stopped(attempt, None, EN).result

    def test_stop_before_the_first_answer_has_no_trace(self):
        assert stopped(Attempt(), "http://127.0.0.1:9411", EN).result == '<p role="status">Stopped.</p>'
        assert stopped(None, None, EN).progress is None

    def test_without_a_dialect_nothing_is_asked(self, api):
        (shown,) = self.shown(api, dialect=None)
        assert shown.over and EN["wait_dialect"] in shown.result and not api.asked

    def test_the_key_is_handed_on(self, api):
        api.key = "secret"
        refused = self.shown(api)[-1]
        assert "This service asks for an API key" in refused.result and refused.problem.field == "key"
        assert "Real-time factor" in self.shown(api, key="secret")[-1].result

    @pytest.mark.parametrize("asked_on", [False, True])
    def test_what_is_ended_is_cancelled_whoever_still_holds_it(self, api, asked_on):
        api.chunks, api.pause_s = 1000, 0.05
        under_way = UnderWay()
        watched = under_way.watch("a page", run(wish(), api.url, None, EN))
        while next(watched).live is None:
            pass
        thread = threading.Thread(target=lambda: list(watched))
        if asked_on:  # in the middle of waiting for the next event
            thread.start()
        under_way.end("a page")
        end = time.monotonic() + 10
        while not api.cancelled:
            assert time.monotonic() < end, "the API still works for nobody"
            time.sleep(0.02)
        if asked_on:
            thread.join(10)
            assert not thread.is_alive()
        assert list(watched) == []

    def test_a_run_that_is_over_is_forgotten(self, api):
        under_way = UnderWay()
        list(under_way.watch("a page", run(wish(), api.url, None, EN)))
        assert under_way._runs == {}
        under_way.end("a page")
