"""The small doors on the running graph: a batch with its traces, a mix of stored voices, and pauses."""

import base64
import io
import time
from contextlib import suppress

import httpx
import numpy as np
import pytest
import soundfile

from tests.helpers.serving import CLUSTER, App, tone

RATE = 24_000


def ask(app: App, path: str, body: dict, timeout: float = 60) -> httpx.Response:
    return httpx.post(f"{app.url}{path}", json=body, timeout=timeout, trust_env=False)


def sound(file: bytes) -> np.ndarray:
    found, rate = soundfile.read(io.BytesIO(file), dtype="float32")
    assert rate == RATE
    return found


def zeros(samples: np.ndarray) -> list[float]:
    """The seconds of each stretch of nothing at all that lasts 50 ms or more."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], samples == 0, [False]]).astype(int))).reshape(-1, 2)
    return [(end - start) / RATE for start, end in edges if end - start >= RATE // 20]


@pytest.fixture(scope="module")
def two(apps):
    """Two stored voices of `fast`, in different dialects."""
    stored = [("fast", "door-a", "en-US", tone(hz=200)), ("fast", "door-b", "en-GB", tone(hz=230, level=0.2))]
    for app, name, dialect, clip in stored:
        answer = httpx.post(
            f"{apps[app].url}/v1/audio/voices",
            data={"name": name, "dialect": dialect, "consent": "A tone has none to give.", "fit": "false"},
            files={"audio_sample": ("a.wav", clip)},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code in (200, 201), answer.text
    yield
    for app, name, *_ in stored:
        httpx.delete(f"{apps[app].url}/v1/audio/voices/{name}", timeout=60, trust_env=False)


def test_a_batch_mixes_voices_pauses_and_fails_item_by_item_each_with_its_own_trace(fast, two):
    answer = ask(
        fast,
        "/v1/audio/speech/batch",
        {
            "items": [
                {"input": "A mix.", "voice": "door-a(3)+door-b(1)", "dialect": "en-US"},
                {"input": "Before [pause:1.5s] and after."},
                {"input": "Nobody's.", "voice": "door-a+nobody"},
                {"input": "Which dialect?", "voice": "door-a+door-b"},
            ],
            "voice": "door-a",
        },
    )
    assert answer.status_code == 200, answer.text
    mixed, paused, unknown, unclear = answer.json()["results"]
    assert [result.get("error_code") for result in (unknown, unclear)] == ["voice_unknown", "mix_dialects_differ"]
    assert unknown["status_code"] == 404 and unclear["error_param"] == "dialect"
    assert mixed["status"] == "success" and len(sound(base64.b64decode(mixed["audio_data"]))) > RATE
    assert zeros(sound(base64.b64decode(paused["audio_data"]))) == pytest.approx([1.5], abs=0.001)

    outer = answer.headers["x-trace-id"]
    spans = fast.trace(outer, spans=5)
    named = {span["tags"]["subrequest.trace_id"] for span in spans if span["name"] == "subrequest"}
    assert named == {result["trace_id"] for result in answer.json()["results"]}
    stages = fast.trace(mixed["trace_id"], spans=3)
    root = next(span for span in stages if "parentId" not in span)
    assert (root["tags"]["request.parent"], root["tags"]["voice.mix"]) == (outer, "2")
    assert {"generate_mel", "vocode_wav"} <= {span["name"] for span in stages}
    assert "door" not in str(stages)
    failed = next(span for span in fast.trace(unknown["trace_id"]) if "parentId" not in span)
    assert failed["tags"]["error.code"] == "voice_unknown" and failed["tags"]["http.status_code"] == "404"
    found = httpx.get(
        f"{fast.zipkin}/api/v2/traces",
        params={"annotationQuery": f"request.parent={outer}", "lookback": 600_000, "limit": 50},
        trust_env=False,
    ).json()
    assert {trace[0]["traceId"] for trace in found} == named, "one search finds all items"


def test_a_client_that_leaves_cancels_its_batch(slow):
    clip = "data:audio/wav;base64," + base64.b64encode(tone()).decode()
    items = [{"input": f"Number {number}."} for number in range(12)]
    before = time.time()
    with suppress(httpx.ReadTimeout):
        ask(slow, "/v1/audio/speech/batch", {"items": items, "ref_audio": clip, "dialect": "en-US"}, timeout=1.0)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        cancelled = httpx.get(
            f"{slow.zipkin}/api/v2/traces",
            params={
                "annotationQuery": "error.type=cancelled and request.parent",
                "lookback": round((time.time() - before) * 1000) + 2000,
                "limit": 50,
            },
            trust_env=False,
        ).json()
        if cancelled:
            break
        time.sleep(0.2)
    assert 1 <= len(cancelled) <= 8, "those that were begun; the others have no trace"


@pytest.mark.parametrize("stream", [False, True])
def test_pauses_are_exact_silence_in_real_speech_whole_and_streamed(voice, stream):
    clip = (CLUSTER / "assets" / "reference.flac").read_bytes()
    body = {
        "input": "[pause:0.5s] Good morning. [pause:1.5s] Good night. [pause:1s]",
        "ref_audio": "data:audio/flac;base64," + base64.b64encode(clip).decode(),
        "dialect": "en-US",
        "response_format": "wav" if not stream else "pcm",
        "stream": stream,
    }
    answer = ask(voice, "/v1/audio/speech", body)
    assert answer.status_code == 200, answer.text
    samples = np.frombuffer(answer.content, "<i2") / 32768 if stream else sound(answer.content)
    # A piece keeps up to 60 ms of its own near-silence at either end, which is a part of the pause.
    lead, middle, last = (seconds for seconds in zeros(samples) if seconds > 0.3)
    assert 0.43 <= lead <= 0.505 and 1.37 <= middle <= 1.505 and 0.93 <= last <= 1.005
