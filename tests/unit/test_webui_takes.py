"""Tests what the web page keeps (takes on its server, the form in the browser), and what it checks and offers."""

from __future__ import annotations

import errno
import io
import json
import re
from types import SimpleNamespace

import pytest
import soundfile
from starlette.testclient import TestClient

from cluster.demo import CLIP
from speech import verification
from speech.dialects import DIALECTS
from speech.limits import MAX_TEXT
from tests.helpers.serving import tone
from tests.helpers.standin_api import MARK, RATE
from webui import clip_check, examples, figures, folder, form, sound, takes
from webui.run import Finished, Wish
from webui.takes import KEPT_S, TakeFiles
from webui.words import TEXTS

ZH, EN = TEXTS["zh"], TEXTS["en"]
WISH = Wish(
    "clip", "/x/clip.wav", None, "en-US", " Hello there, and good evening! ", "fast", None, None, 1.25, 7, False, "KEY"
)
FINISHED = Finished(b"", 4.0)


@pytest.fixture
def files(tmp_path) -> TakeFiles:
    return TakeFiles(tmp_path)


class TestTakeFiles:
    @pytest.mark.parametrize("extension, kind", [("wav", "WAV"), ("mp3", "MP3"), ("flac", "FLAC"), ("opus", "OGG")])
    def test_a_take_is_handed_out_in_every_format(self, files, extension, kind):
        token = files.add(sound.wav(b"\0\20\0\0" * RATE, RATE, MARK))
        path, media_type = files.file(token, extension)
        info = soundfile.info(path)
        found = verification.read(path.read_bytes())
        assert found.mark == MARK
        assert info.format == kind and info.duration == pytest.approx(2, abs=0.1) and media_type.startswith("audio/")

    @pytest.mark.parametrize("token", ["0" * 32, "../../etc/passwd", "", "A" * 32])
    def test_what_is_not_there_is_none(self, files, token):
        assert files.file(token, "wav") is None and files.file(token, "mp3") is None

    def test_no_other_file_can_be_asked_for(self, files, tmp_path):
        token = files.add(tone(seconds=1))
        assert files.file(token, "exe") is None and files.file(token, "pcm") is None

    def test_a_full_disk_leaves_no_beginning_of_a_file(self, files, tmp_path, monkeypatch):
        token, write = files.add(tone(seconds=1)), type(tmp_path).write_bytes

        def full(path, data: bytes) -> int:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as disk:
            disk.setattr(type(tmp_path), "write_bytes", full)
            for attempt in (lambda: files.file(token, "mp3"), lambda: files.add(tone(seconds=1))):
                with pytest.raises(OSError, match="No space"):
                    attempt()
        assert [file.name for file in tmp_path.iterdir()] == [f"{token}.wav"]
        path, _ = files.file(token, "mp3")
        assert soundfile.info(path).duration == pytest.approx(1, abs=0.1)

    def test_an_hour_later_it_is_gone_in_all_formats(self, tmp_path):
        late = TakeFiles(tmp_path, now=lambda: (tmp_path / f"{token}.wav").stat().st_mtime + KEPT_S + 1)
        token = late.add(tone(seconds=1))
        late.file(token, "mp3")
        late.sweep()
        assert late.file(token, "wav") is None and list(tmp_path.iterdir()) == []

    def test_a_younger_one_stays(self, files):
        token = files.add(tone(seconds=1))
        files.sweep()
        assert files.file(token, "wav")

    def test_the_site_serves_it_with_ranges_and_says_when_it_is_gone(self):
        from webui import site

        client = TestClient(site.build("http://127.0.0.1:9"))
        token = TakeFiles().add(tone(seconds=1))
        whole = client.get(f"/takes/{token}.wav")
        assert whole.status_code == 200 and whole.headers["content-type"] == "audio/wav"
        assert client.get(f"/takes/{token}.wav", headers={"range": "bytes=0-99"}).status_code == 206, "players seek"
        assert soundfile.info(io.BytesIO(client.get(f"/takes/{token}.flac").content)).format == "FLAC"
        gone = client.get(f"/takes/{'0' * 32}.wav")
        assert (gone.status_code, gone.text) == (404, "This take is not here, or no longer.")


class TestRecords:
    @pytest.mark.parametrize(
        "text, dialect, seed, name",
        [
            ("Hello there, and good evening!", "en-US", 7, "Hello-there-and-good-evening_en-US_seed-7"),
            ("傍晚的港口很安静。", "zh-CN", 0, "傍晚的港口很安静_zh-CN_seed-0"),
            ("../../etc/passwd\0", None, None, "etc-passwd"),
            ("…!", "en-US", None, "speech_en-US"),
            ("a" * 100, None, None, "a" * 40),
        ],
    )
    def test_a_file_name_is_one_that_people_can_read(self, text, dialect, seed, name):
        assert takes.file_name(text, dialect, seed) == name

    def test_the_browser_never_gets_the_key(self):
        record = takes.record(WISH, FINISHED, "t", takes.settings(WISH, FINISHED, "English", "anna", EN))
        assert "KEY" not in json.dumps(record) and record["form"].keys() == set(form.FIELDS)
        assert record["text"] == "Hello there, and good evening!"

    def test_its_settings_are_in_words(self):
        found = takes.settings(WISH, FINISHED, "English", "anna", EN)
        assert [in_words for _, _, in_words in found] == ["English", "anna", "speed 1.25", "seed 7", "4.0 s"]
        assert ("种子", "7") not in [each[:2] for each in found]
        assert ("随机种子", "7", "种子 7") in takes.settings(WISH, FINISHED, "英语", "anna", ZH)
        part = takes.settings(WISH, Finished(b"", 1.0, whole=False), "English", "anna", EN)
        assert part[-1] == ("State", "only the beginning", "only the beginning")

    def test_every_text_of_the_list_is_in_its_template(self):
        html = takes.template(EN)
        script = takes.SCRIPT
        for name in re.findall(r"said\('(\w+)'\)|button\('(\w+)'", script):
            attribute = f"data-take-{(name[0] or name[1]).lower()}="
            assert attribute in html, attribute


class TestForm:
    def test_a_form_comes_back_as_it_was(self):
        kept = form.read(json.dumps({"text": "Hello", "dialect": "en-US", "speed": 1.5, "seed": 7, "mode": "instruct"}))
        assert (kept.text, kept.dialect, kept.speed, kept.seed, kept.mode) == ("Hello", "en-US", 1.5, 7, "instruct")

    @pytest.mark.parametrize(
        "kept", ["", "no json", "[]", '{"mode": "other"}', '{"seed": -1}', 5, None, {"speed": "x"}]
    )
    def test_what_is_no_form_is_left_out(self, kept):
        assert form.read(kept) is None

    def test_a_key_is_no_part_of_it(self):
        assert "key" not in form.FIELDS and not hasattr(form.read({"key": "secret"}), "key")

    def test_a_clip_is_a_file_of_ours_or_none(self, tmp_path):
        ours = folder.own() / "a clip.wav"
        ours.write_bytes(b"x")
        assert form.Form(clip=str(ours)).clip_file == str(ours.resolve())
        (tmp_path / "theirs.wav").write_bytes(b"x")
        (folder.own() / "link.wav").unlink(missing_ok=True)
        (folder.own() / "link.wav").symlink_to(tmp_path / "theirs.wav")
        for path in (tmp_path / "theirs.wav", folder.own() / "link.wav", folder.own() / "gone.wav", folder.own()):
            assert form.Form(clip=str(path)).clip_file is None
        assert form.Form(clip=f"{folder.own()}/../../etc/passwd").clip_file is None
        assert form.Form(clip="a\0b").clip_file is None


class TestClipCheck:
    def file(self, tmp_path, content: bytes) -> str:
        (tmp_path / "clip.wav").write_bytes(content)
        return str(tmp_path / "clip.wav")

    def test_a_good_clip_says_its_length_and_rate(self):
        facts, problem = clip_check.check(str(CLIP), EN)
        assert problem is None and re.search(r"✓ \d+\.\d s, 24 kHz", facts)

    @pytest.mark.parametrize(
        "content, facts, words",
        [
            (tone(rate=8000), "4.0 s, 8 kHz", "minimum required 16000Hz"),
            (tone(seconds=2), "2.0 s, 24 kHz", "2.0 s long"),
            (tone(seconds=40), "40.0 s, 24 kHz", "longer than 15 s"),
            (b"text" * 50, "", "can't be read"),
            (b"", "", "no bytes"),
        ],
    )
    def test_a_bad_one_says_its_fault_at_the_clip(self, tmp_path, content, facts, words):
        found, problem = clip_check.check(self.file(tmp_path, content), EN)
        assert facts in found and "✓" not in found and problem.field == "clip" and words in problem.text

    def test_the_chinese_page_says_it_in_chinese(self, tmp_path):
        _, problem = clip_check.check(self.file(tmp_path, tone(seconds=2)), ZH)
        assert problem.text == ZH["error_clip_too_short"]

    def test_an_engine_that_takes_longer_clips_is_asked(self, tmp_path):
        _, problem = clip_check.check(self.file(tmp_path, tone(seconds=20)), EN, (3.0, 30.0))
        assert problem is None


class TestExamples:
    def test_every_sentence_is_one_of_a_dialect_and_short(self):
        assert all(code in DIALECTS and 0 < len(text) <= MAX_TEXT for code, text in examples.SENTENCES.items())
        assert {DIALECTS.find(code).language for code in examples.SENTENCES} == {each.language for each in DIALECTS}

    def test_a_dialect_without_one_gets_one_of_its_language(self):
        assert examples.sentence("en-GB") == examples.SENTENCES["en-US"]
        assert examples.sentence("zh-Henan") == examples.SENTENCES["zh-CN"]
        assert examples.sentence("xx") == examples.SENTENCES["en-US"]

    def test_the_clip_is_the_one_that_ships_in_a_folder_of_ours(self):
        assert examples.clip().read_bytes() == CLIP.read_bytes() and examples.clip().is_relative_to(folder.own())

    def test_both_pages_have_a_line_to_read_aloud(self):
        assert examples.READ_ALOUD.keys() == TEXTS.keys()


@pytest.mark.parametrize(
    "ms, said", [(0.4, "0 ms"), (38.2, "38 ms"), (999.4, "999 ms"), (999.6, "1.00 s"), (25633, "25.63 s")]
)
def test_a_time_is_written_in_one_way(ms, said):
    assert figures.duration(ms, EN) == said


@pytest.mark.parametrize(
    "spans, ms", [([], 0), ([(0, 10)], 10), ([(0, 10), (5, 20)], 20), ([(30, 40), (0, 10), (2, 3)], 20)]
)
def test_what_overlaps_counts_once(spans, ms):
    assert figures.covered(spans) == ms


@pytest.mark.parametrize(
    "fit, said",
    [
        (None, ""),
        ({"state": "queued"}, "fit queued"),
        ({"state": "running"}, "fitting"),
        ({"state": "running", "step": 3, "steps": 8}, "fitting 3/8"),
        ({"state": "done", "step": 8, "steps": 8}, "fitted to the speaker"),
        ({"state": "kept_steered", "why": "it is hoarse"}, "kept steered: it is hoarse"),
        ({"state": "failed", "why": "<b>"}, "fit failed: <b>"),
    ],
)
def test_a_fit_has_few_words_and_they_are_text(fit, said):
    from webui.stored_voices import StoredVoices

    voices = StoredVoices(SimpleNamespace(words=EN))
    voices.badge = voices.fit = voices.timer = None
    voice = {
        "id": "voice_1",
        "name": "anna",
        "dialect": "en-US",
        "fit": fit and {"step": 0, "steps": 0, "why": ""} | fit,
    }
    assert voices._fit_words(voice) == said
    shown = said if fit and fit["state"] in ("queued", "running") else ""
    assert voices._label(voice) == f"anna · en-US{' · ' if shown else ''}{shown}"


def test_a_voice_has_one_name():
    from webui.stored_voices import StoredVoices

    voices = StoredVoices(SimpleNamespace(words=EN))
    assert voices.name("voice_1", [{"id": "voice_1", "name": "anna"}]) == "anna"
    assert (voices.name("voice_2", []), voices.name(None, [])) == ("voice_2", "")
