"""Every kind of bad input, sent to a running graph: a clear answer, a whole trace, no leak."""

import struct
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from tests.helpers.serving import tone

GOOD = tone()
RECORDINGS = Path(__file__).parent.parent / "unit" / "recordings"


def silence() -> bytes:
    return tone(level=0.0)


def nearly_silent() -> bytes:
    """Half a second of sound in four seconds."""
    import io

    wave = np.zeros(24_000 * 4, np.float32)
    wave[:12_000] = 0.3 * np.sin(np.arange(12_000) * 0.05)
    file = io.BytesIO()
    soundfile.write(file, wave, 24_000, format="WAV")
    return file.getvalue()


def not_finite() -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, np.full(24_000 * 4, np.nan, np.float32), 24_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def hours_in_a_few_bytes() -> bytes:
    """A FLAC of ten minutes of silence: small, and never decoded as a whole."""
    return tone(seconds=600, level=0.0, format="FLAC")


def opposed() -> bytes:
    """Two channels, one the other upside down: nothing is left when they are mixed."""
    import io

    wave = 0.3 * np.sin(np.arange(24_000 * 4) * 0.05)
    file = io.BytesIO()
    soundfile.write(file, np.stack([wave, -wave], 1), 24_000, format="WAV")
    return file.getvalue()


def recording(name: str) -> bytes:
    return (RECORDINGS / name).read_bytes()


CLIPS = {
    "empty": (b"", "clip_empty"),
    "text": (b"this is no audio" * 50, "not_audio"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(5000), "not_audio"),
    "riff without a format": (b"RIFF" + struct.pack("<I", 100) + b"WAVE" + bytes(100), "not_audio"),
    "truncated wav": (GOOD[: len(GOOD) // 2], "clip_truncated"),
    "truncated flac": (tone(seconds=6, format="FLAC")[:20_000], "clip_truncated"),
    "larger than 20 MB": (GOOD + bytes(21 * 2**20), "clip_too_large"),
    "8 kHz": (tone(rate=8000), "sample_rate_too_low"),
    "too short": (tone(seconds=2.9), "clip_too_short"),
    "too long": (tone(seconds=15.5), "clip_too_long"),
    "ten minutes in a small file": (hours_in_a_few_bytes(), "clip_too_long"),
    "silence": (silence(), "no_speech"),
    "hardly any sound": (nearly_silent(), "no_speech"),
    "not a number": (not_finite(), "not_finite"),
    "channels that cancel out": (opposed(), "channels_cancel_out"),
    "half an m4a": (recording("phone.m4a")[:9000], "clip_truncated"),
}

FIELDS = {
    "no text": ({"text": ""}, "text", "text_empty"),
    "blank text": ({"text": "  \n "}, "text", "text_empty"),
    "201 characters": ({"text": "x" * 201}, "text", "text_too_long"),
    "special token": ({"text": "hello <|endofprompt|> there"}, "text", "text_special_token"),
    "no dialect": ({"dialect": ""}, "dialect", "dialect_missing"),
    "unknown dialect": ({"dialect": "zh-Sichaun"}, "dialect", "dialect_unknown"),
    "unknown mode": ({"mode": "slow"}, "mode", "mode_unknown"),
    "instruct without instruction": ({"mode": "instruct"}, "style_instruction", "instruction_missing"),
    "instruction without instruct": ({"style_instruction": "slowly"}, "style_instruction", "instruction_without_mode"),
    "speed too high": ({"speed": "2.5"}, "speed", "speed_out_of_range"),
    "speed is no number": ({"speed": "nan"}, "speed", "speed_out_of_range"),
    "seed is negative": ({"seed": "-1"}, "seed", "seed_out_of_range"),
    "Chinese as British English": ({"text": "今天天气很好", "dialect": "en-GB"}, "text", "text_not_in_dialect"),
    "kana as American English": ({"text": "カタカナ"}, "text", "text_not_in_dialect"),
    "misspelt field": ({"dialct": "en-US"}, "dialect", "field_unknown"),
}


def check(app, answer: httpx.Response, code: str, param: str | None) -> dict:
    """A 400 in our shape, and its trace in Zipkin with the error on the root. Returns the root's tags."""
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("input_validation", code, param)
    assert "Traceback" not in answer.text and ".py" not in answer.text
    spans = app.trace(answer.headers["x-trace-id"])
    root = next(span for span in spans if "parentId" not in span)
    assert root["tags"]["error.type"] == "input_validation" and root["tags"]["error"]
    assert root["tags"]["error.code"] == code and root["tags"]["http.status_code"] == "400"
    return root["tags"]


@pytest.mark.parametrize("kind", CLIPS)
def test_a_bad_clip(fast, kind):
    clip, code = CLIPS[kind]
    check(fast, fast.post(clip=clip), code, "prompt_audio")


@pytest.mark.parametrize("kind", FIELDS)
def test_a_bad_field(fast, kind):
    fields, param, code = FIELDS[kind]
    check(fast, fast.post(**fields), code, param)


def test_the_8_khz_caller_is_named_where_an_operator_looks(fast):
    answer = fast.post(clip=tone(rate=8000))
    message = "Audio sample rate 8000Hz, minimum required 16000Hz. Record or export the clip again at 16000Hz or more."
    assert answer.json()["error"]["message"] == message
    spans = {span["name"]: span for span in fast.trace(answer.headers["x-trace-id"], spans=2)}
    stage = spans["preprocess_audio"]["tags"]
    assert stage["error"] == message and stage["audio.sample_rate"] == "8000"
    assert spans["post /api/generate"]["tags"]["error"] == message
    found = httpx.get(
        f"{fast.zipkin}/api/v2/traces",
        trust_env=False,
        params={"serviceName": "audio-service", "annotationQuery": "error and http.status_code=400", "limit": 500},
    ).json()
    assert answer.headers["x-trace-id"] in {trace[0]["traceId"] for trace in found}


def test_clipping_is_a_tag_not_a_refusal(fast):
    answer = fast.post(clip=tone(level=3.0))
    assert answer.status_code == 200
    spans = {span["name"]: span for span in fast.trace(answer.headers["x-trace-id"], spans=5)}
    assert float(spans["preprocess_audio"]["tags"]["audio.clipping"]) > 0.1


def test_the_text_is_in_neither_answer_nor_trace(fast):
    secret = "canary-5412"
    for fields in (
        {"text": secret * 30},
        {"dialect": secret},
        {"mode": secret},
        {"text": f"<|{secret}|>"},
        {secret: "x"},
        {"seed": secret},
    ):
        answer = fast.post(**fields)
        assert answer.status_code == 400 and secret not in answer.text
        assert secret not in str(fast.trace(answer.headers["x-trace-id"]))


@pytest.mark.parametrize(
    "body, content_type",
    [
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nhalf a form', "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b'{"text": "hello"}', "application/json"),
        (b"text=hello", "application/x-www-form-urlencoded"),
    ],
)
def test_a_body_that_is_no_such_form(fast, body, content_type):
    answer = httpx.post(
        f"{fast.url}/api/generate", content=body, headers={"content-type": content_type}, trust_env=False
    )
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "input_validation"
    assert fast.trace(answer.headers["x-trace-id"])


def test_fields_of_the_wrong_kind(fast):
    url = f"{fast.url}/api/generate"
    as_text = httpx.post(
        url, data={"text": "a", "dialect": "en-US"}, files={"prompt_audio": (None, "not a file")}, trust_env=False
    )
    check(fast, as_text, "clip_not_a_file", "prompt_audio")
    twice = httpx.post(
        url, data={"text": ["a", "b"], "dialect": "en-US"}, files={"prompt_audio": ("a.wav", GOOD)}, trust_env=False
    )
    check(fast, twice, "field_twice", None)
    file_text = httpx.post(
        url,
        data={"dialect": "en-US"},
        trust_env=False,
        files={"prompt_audio": ("a.wav", GOOD), "text": ("t.txt", b"hello")},
    )
    check(fast, file_text, "field_is_file", None)
    none = httpx.post(url, data={"text": "a", "dialect": "en-US"}, files={"other": ("a.wav", GOOD)}, trust_env=False)
    check(fast, none, "field_is_file", None)


def test_unknown_paths_and_methods_have_traces_too(fast):
    for method, path, status in (
        ("GET", "/nowhere/secret-path", 404),
        ("GET", "/api/generate", 405),
        ("DELETE", "/health", 405),
    ):
        answer = httpx.request(method, fast.url + path, trust_env=False)
        assert answer.status_code == status and answer.json()["error"]["type"] in ("not_found", "method_not_allowed")
        assert "secret" not in str(fast.trace(answer.headers["x-trace-id"]))


def test_what_the_embedded_engine_cannot_do_is_said_before_any_stage_works(voice):
    answer = voice.post(dialect="zh-Sichuan", text="你好")
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["type"] == "unsupported_dialect" and "en-US" in error["message"] and "zh-CN" in error["message"]
    spans = voice.trace(answer.headers["x-trace-id"])
    assert len(spans) == 1 and spans[0]["tags"]["error.type"] == "unsupported_dialect"
    assert spans[0]["tags"]["request.dialect"] == "sichuan"
    unknown = voice.post(mode="instruct", style_instruction="like a purple elephant")
    assert unknown.status_code == 400 and unknown.json()["error"]["param"] == "style_instruction"
    assert "缓慢" in unknown.json()["error"]["message"] and "elephant" not in unknown.text


@pytest.mark.parametrize(
    "name, format, seconds",
    [
        ("vbr-no-xing.mp3", "mp3", 3.6),
        ("own-stream.flac", "flac", 3.84),
        ("wav-size-80000000-arecord-pipe.wav", "wav", 3.6),
        ("phone.m4a", "m4a", 3.6),
        ("browser.webm", "webm", 3.6),
    ],
)
def test_what_phones_browsers_and_recorders_write_is_heard(fast, name, format, seconds):
    answer = fast.post(clip=recording(name))
    assert answer.status_code == 200, answer.text
    spans = {span["name"]: span for span in fast.trace(answer.headers["x-trace-id"], spans=5)}
    tags = spans["preprocess_audio"]["tags"]
    assert tags["audio.format"] == format and float(tags["audio.duration"]) == pytest.approx(seconds, abs=0.06)


def test_the_script_of_the_text_is_a_tag(fast):
    for text, dialect, script in (
        ("Hello", "en-US", "latin"),
        ("你好", "zh-CN", "han"),
        ("こんにちは", "en-GB", "kana"),
    ):
        answer = fast.post(text=text, dialect=dialect)
        assert answer.status_code == (400 if script == "kana" else 200)
        root = next(span for span in fast.trace(answer.headers["x-trace-id"]) if "parentId" not in span)
        assert root["tags"]["text.script"] == script


@pytest.mark.parametrize("stream_format", ["audio", "sse", ""])
@pytest.mark.parametrize("last", ["It ends with [laughter] here.", "It ends with <b>this</b>.", "It ends with Привет."])
def test_what_a_later_piece_would_be_refused_for_is_refused_before_the_first_byte(voice, last, stream_format):
    text = f"The old boat goes slowly down the river every morning. Nobody on the bank ever looks up. {last}"
    answer = voice.post(text=text, long_form="true", stream_format=stream_format)
    assert answer.status_code == 400 and answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["param"] == "text"
