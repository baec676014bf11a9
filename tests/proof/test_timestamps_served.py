"""Words with their times through the running graph: every door tells the same, and the traces tell no text."""

import base64
import io
import json
import os

import httpx
import pytest
import soundfile

from tests.helpers.serving import App, tone

pytestmark = pytest.mark.proof

TEXT = "Dr. Quirrell paid $5 for 1/3 of it. Then she left, humming **quietly**."
WORDS = "Dr.|Quirrell|paid|$5|for|1/3|of|it|Then|she|left|humming|quietly"


def asked(app: App, path: str = "/api/generate", **fields: str) -> httpx.Response:
    spoken = "text" if path == "/api/generate" else "input"
    clip = "prompt_audio" if path == "/api/generate" else "ref_audio"
    answer = httpx.post(
        f"{app.url}{path}",
        timeout=60,
        trust_env=False,
        data={spoken: TEXT, "dialect": "en-US", "response_format": "wav"} | fields,
        files={clip: ("clip.wav", tone())},
    )
    assert answer.status_code == 200, answer.text
    return answer


def events(answer: httpx.Response) -> list[dict]:
    lines = (line for line in answer.text.splitlines() if line.startswith("data: "))
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def check(words: list[dict], seconds: float) -> None:
    assert "|".join(word["text"] for word in words) == WORDS
    for word in words:
        assert TEXT[word["start"] : word["end"]] == word["text"] and 0 <= word["start_s"] < word["end_s"] <= seconds
    for before, after in zip(words, words[1:], strict=False):
        assert before["end"] <= after["start"] and before["end_s"] <= after["start_s"]


def test_whole_files_and_streams_tell_the_same_words_on_every_door(voice):
    whole = asked(voice, timestamps="word")
    assert whole.headers["content-type"] == "application/json" and "x-aigc" in whole.headers
    body = whole.json()
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(body["audio"])))
    assert body["seconds"] == pytest.approx(len(sound) / rate, abs=1e-4) and body["format"] == "wav"
    check(body["timestamps"], body["seconds"])
    assert body["seconds"] - body["timestamps"][-1]["end_s"] > 0.05, "the silence at the end is no part of the word"

    openai = asked(voice, "/v1/audio/speech", timestamps="word").json()
    assert [word["start_s"] for word in openai["timestamps"]] == pytest.approx(
        [word["start_s"] for word in body["timestamps"]], abs=1e-3
    )

    batch = httpx.post(
        f"{voice.url}/v1/audio/speech/batch",
        timeout=60,
        trust_env=False,
        json={
            "items": [{"input": TEXT, "timestamps": "word"}, {"input": "Yes."}],
            "ref_audio": "data:audio/wav;base64," + base64.b64encode(tone()).decode(),
            "dialect": "en-US",
        },
    )
    timed, plain = batch.json()["results"]
    check(timed["timestamps"], timed["seconds"] + 1e-3)
    assert timed["media_type"] == "audio/wav" and "timestamps" not in plain

    ours = [data for data in events(asked(voice, stream_format="sse", timestamps="word")) if "audio" in data]
    theirs = [
        data
        for data in events(asked(voice, "/v1/audio/speech", stream_format="sse", timestamps="word"))
        if "audio" in data
    ]
    assert len(ours) >= 2, "a sentence each"
    for stream in (ours, theirs):
        words = [word for data in stream for word in data["timestamps"]]
        check(words, 60.0)
        for word, same in zip(words, (word for data in ours for word in data["timestamps"]), strict=True):
            # A first piece may be made in parts: the same words, and edges within a phoneme.
            assert word["text"] == same["text"] and word["start_s"] == pytest.approx(same["start_s"], abs=0.06)
    heard = 0.0
    for data in ours:
        heard += data["seconds"]
        assert all(word["end_s"] <= heard + 1e-3 for word in data["timestamps"]), "not before their audio"
    # The second sentence is said by itself in the stream, and joined with a pause.
    assert ours[-1]["timestamps"] and heard == pytest.approx(body["seconds"], rel=0.25)
    assert all("timestamps" not in data for data in events(asked(voice, stream_format="sse")))


def test_phonemes_and_parts(voice):
    answer = asked(voice, timestamps="phoneme").json()
    check(answer["timestamps"], answer["seconds"])
    for word in answer["timestamps"]:
        assert word["phonemes"][0]["start_s"] == word["start_s"] and word["phonemes"][-1]["end_s"] == word["end_s"]
    long = asked(voice, timestamps="part", long_form="true", text=" ".join([TEXT] * 3)).json()
    assert len(long["timestamps"]) >= 2
    assert " ".join(part["text"] for part in long["timestamps"]) == " ".join([TEXT] * 3)


def test_an_engine_that_knows_only_parts_says_so(fast):
    engine = httpx.get(f"{fast.url}/api/dialects", trust_env=False).json()["engine"]
    assert engine["timestamps"] == ["part"]
    refused = fast.post(timestamps="word")
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == ("timestamps", "timestamps_unsupported") and "part" in error["message"]
    (part,) = fast.post(timestamps="part").json()["timestamps"]
    assert part == {"text": "Hello", "start": 0, "end": 5, "start_s": 0.0, "end_s": 10.0}


def test_a_raw_stream_has_no_place_for_them(fast):
    refused = fast.post(timestamps="part", stream_format="audio")
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "timestamps_in_raw_stream"


def test_no_word_is_in_the_trace(voice):
    trace_id = os.urandom(16).hex()
    headers = {"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"}
    voice.post(text=TEXT, timestamps="phoneme", headers=headers)
    spans = json.dumps(voice.trace(trace_id, spans=5))
    assert "Quirrell" not in spans and "1/3" not in spans and "timings" not in spans
