"""`python -m cluster say`: a request from the command line, against a stand-in of the API."""

from __future__ import annotations

import io
import json

import pytest
import soundfile

from cluster import cli, ports, say
from cluster.cli_error import CliError
from cluster.demo import CLIP
from speech import verification
from tests.helpers.standin_api import MARK, TRACE


@pytest.fixture
def spoken(api, tmp_path, capsys, monkeypatch):
    """Runs the command; (exit status, what it printed, its errors, the file it was to write)."""
    monkeypatch.delenv(say.KEY_VARIABLE, raising=False)

    def run(*options, text="Hello", output="out.wav", url=None):
        file = tmp_path / output
        code = cli.main(["say", text, "-o", str(file), "--run-dir", str(tmp_path), "--url", url or api.url, *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err, file

    return run


def test_speech_figures_and_the_trace(spoken, api):
    code, out, _, file = spoken(
        "--clip", str(CLIP), "--dialect", "en-US", "--style", "slowly", "--speed", "1.5", "--seed", "7"
    )
    assert code == 0 and soundfile.info(file).duration == 2.0
    assert verification.read(file.read_bytes()).mark == MARK
    assert "2.0 s of speech" in out and "real-time factor" in out
    assert f"trace: {api.zipkin}/zipkin/traces/{TRACE}" in out
    (asked,) = api.asked
    assert asked.pop("prompt_audio") == {"name": "clip.flac", "bytes": CLIP.stat().st_size}
    assert asked == {
        "text": "Hello",
        "dialect": "en-US",
        "mode": "instruct",
        "style_instruction": "slowly",
        "speed": "1.5",
        "seed": "7",
        "response_format": "wav",
        "stream_format": "sse",
    }


def test_a_mix_of_voices_and_pauses_go_to_the_api_as_they_are_written(spoken, api):
    assert spoken("--voice", "anna(2)+bob(1)", text="Wait [pause:0.5s] here.")[0] == 0
    assert (api.asked[0]["voice"], api.asked[0]["text"]) == ("anna(2)+bob(1)", "Wait [pause:0.5s] here.")


def test_without_a_terminal_each_stage_is_a_line(spoken):
    _, out, _, _ = spoken("--voice", "anna")
    assert [line.split()[:2] for line in out.splitlines()[:4]] == [
        ["PREPROCESS_AUDIO", "audio-service"],
        ["EXTRACT_SPEAKER", "embedding-service"],
        ["GENERATE_MEL", "tts-service"],
        ["VOCODE_WAV", "vocoder-service"],
    ]
    assert "\r" not in out


def test_the_fit_that_it_waits_for_is_shown_step_by_step(spoken, api):
    _, out, _, _ = spoken("--voice", "anna", "--wait-for-fit")
    assert api.asked[0]["fit"] == "wait"
    assert [line.split() for line in out.splitlines() if line.startswith("FIT_VOICE")] == [
        ["FIT_VOICE", "fitting-service", "running", "0/2"],
        ["FIT_VOICE", "fitting-service", "running", "1/2"],
        ["FIT_VOICE", "fitting-service", "done", "2/2"],
    ]
    assert "the voice is fitted to its speaker" in out
    _, out, _, _ = spoken("--voice", "anna")
    assert "fit" not in api.asked[1] and "fitted" not in out


@pytest.mark.parametrize("pieces, known", [(1, False), (3, False), (2, True)])
def test_on_a_terminal_a_bar_fills_and_goes(api, tmp_path, pieces, known):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    api.pieces, api.knows_voice = pieces, known
    out = Terminal()
    say.run(say.Order(text="Hello", output=tmp_path / "a.wav", url=api.url, voice="anna"), out)
    drawn = [part for part in out.getvalue().split("\r\x1b[K") if "%" in part]
    shares = [int(part.split("%")[0].split()[-1]) for part in drawn]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 100
    assert out.getvalue().split("\r\x1b[K")[-1].startswith(f"{2.0 * pieces} s of speech")


@pytest.mark.parametrize(
    "output, options, wanted",
    [("a.mp3", [], "mp3"), ("a.OGG", [], "opus"), ("a.aac", [], "aac"), ("a.bin", ["--format", "flac"], "flac")],
)
def test_the_extension_chooses_the_format(spoken, api, output, options, wanted):
    assert spoken("--voice", "anna", *options, output=output)[0] == 0
    assert api.asked[0]["response_format"] == wanted


def test_a_clip_without_a_dialect_is_refused_with_the_list(spoken, api):
    code, _, err, file = spoken("--clip", str(CLIP))
    assert code == 1 and not api.asked and not file.exists()
    assert "--dialect" in err and "zh-CN" in err and "普通话" in err and "zh-Sichuan" not in err


def test_a_trace_that_was_not_kept_says_how_it_would_be(spoken, api):
    api.keeps_trace = False
    assert f"{TRACE} was not kept (`--sampling 1`" in spoken("--voice", "anna")[1]


@pytest.mark.parametrize(
    "output, words", [("a.txt", "names no audio format"), ("no/such/a.wav", "folder does not exist")]
)
def test_an_output_that_cannot_be_is_named_before_anything_is_asked(spoken, api, output, words):
    code, _, err, _ = spoken("--voice", "anna", output=output)
    assert code == 1 and words in err and not api.asked


def test_a_clip_that_cannot_be_read_is_named(spoken, tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    for clip, words in (("missing.wav", "can't be read"), ("empty.wav", "0 bytes")):
        code, _, err, _ = spoken("--clip", str(tmp_path / clip), "--dialect", "en-US")
        assert code == 1 and words in err


def test_the_text_may_not_be_empty(spoken, api):
    code, _, err, _ = spoken("--voice", "anna", text=" ")
    assert code == 1 and "nothing to speak" in err and not api.asked


def test_a_voice_or_a_clip_not_both(spoken, capsys):
    with pytest.raises(SystemExit) as exit_:
        spoken("--voice", "anna", "--clip", str(CLIP))
    assert exit_.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_an_error_has_the_apis_words_and_the_trace(spoken, api):
    api.refusal = (422, {"message": "The running engine (embedded) can't speak this dialect. It speaks en-US."})
    code, _, err, file = spoken("--voice", "anna", "--dialect", "zh-Sichuan")
    assert code == 1 and "can't speak this dialect. It speaks en-US." in err and TRACE in err and not file.exists()


def test_a_failure_in_the_middle_leaves_no_file(spoken, api):
    api.late_error = {"message": "vocoder-service is not available; try again shortly."}
    code, _, err, file = spoken("--voice", "anna")
    assert code == 1 and "try again shortly" in err and not file.exists()


def test_a_failure_in_the_middle_links_to_its_trace_where_the_stack_is_known(api, tmp_path):
    """The event names the id alone; the launcher knows where its Zipkin is."""
    api.late_error = {"message": "vocoder-service is not available; try again shortly."}
    order = say.Order("Hello", tmp_path / "out.wav", api.url, voice="anna", zipkin_page=api.zipkin)
    with pytest.raises(CliError, match=f"Its trace: {api.zipkin}/zipkin/traces/{TRACE}"):
        say.run(order, io.StringIO())


def test_the_key_comes_from_the_environment_or_a_file(spoken, api, tmp_path, monkeypatch):
    api.key = "secret"
    code, _, err, _ = spoken("--voice", "anna")
    assert code == 1 and say.KEY_VARIABLE in err and "--key-file" in err
    (tmp_path / "key").write_text("secret\n")
    assert spoken("--voice", "anna", "--key-file", str(tmp_path / "key"))[0] == 0
    monkeypatch.setenv(say.KEY_VARIABLE, "secret")
    assert spoken("--voice", "anna")[0] == 0
    code, _, err, _ = spoken("--voice", "anna", "--key-file", str(tmp_path / "no-such"))
    assert code == 1 and "--key-file" in err


def test_nobody_there_says_how_to_start(spoken):
    code, _, err, _ = spoken("--voice", "anna", url=f"http://127.0.0.1:{ports.any_free()}")
    assert code == 1 and "make up" in err


def test_subtitles_and_words_are_written_beside_the_speech(spoken, api, tmp_path):
    text = "Good & early.  Then late."
    files = {kind: tmp_path / f"out.{kind}" for kind in ("srt", "vtt", "json")}
    options = [part for kind, file in files.items() for part in (f"--{kind}", str(file))]
    code, _, err, file = spoken("--voice", "anna", *options, text=text + "\n")
    assert code == 0, err
    assert api.asked[0]["timestamps"] == "word" and file.exists()
    assert files["vtt"].read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nGood &amp; early.\n\n00:00:00.500 --> 00:00:01.200\nThen late.\n\n"
    )
    assert files["srt"].read_text().startswith("1\n00:00:00,000 --> 00:00:00,500\nGood & early.\n\n2\n")
    told = json.loads(files["json"].read_text())
    assert told["text"] == text and [word["text"] for word in told["timestamps"]] == "Good & early Then late".split()
    assert all(text[word["start"] : word["end"]] == word["text"] for word in told["timestamps"])


def test_times_are_asked_for_only_where_they_are_written(spoken, api, tmp_path):
    assert spoken("--voice", "anna")[0] == 0 and "timestamps" not in api.asked[0]
    assert spoken("--voice", "anna", "--json", str(tmp_path / "a.json"), "--timestamps", "part")[0] == 0
    assert api.asked[1]["timestamps"] == "part"


def test_a_folder_that_is_missing_is_named_with_its_option(spoken, api):
    code, _, err, _ = spoken("--voice", "anna", "--srt", "no/such/a.srt")
    assert code == 1 and "--srt no/such/a.srt: its folder does not exist" in err and not api.asked
