"""Streams and long texts through the running graph: what a client gets, and what its trace says."""

import base64
import concurrent.futures
import contextlib
import io
import json
import os
import socket
import time

import httpx
import pytest
import soundfile

from bench.measuring.load import multipart
from tests.helpers.serving import App, tone

SENTENCES = ["The first of them is heard early.", "The second one follows it soon after.", "A third one ends it all."]
TEXT = " ".join(SENTENCES)
BAD_SECOND = f"{SENTENCES[0]} The second asks for fault:generate and gets it. {SENTENCES[2]}"


def streaming(app: App, stream_format: str, headers: dict | None = None, **fields: str):
    return httpx.stream(
        "POST",
        f"{app.url}/api/generate",
        headers=headers,
        timeout=60,
        trust_env=False,
        data={"text": TEXT, "dialect": "en-US", "stream_format": stream_format} | fields,
        files={"prompt_audio": ("clip.wav", tone())},
    )


def events(answer: httpx.Response) -> list[tuple[str, dict]]:
    found = []
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            found.append((value, {}))
        elif name == "data":
            found[-1][1].update(json.loads(value))
    return found


def by_name(spans: list[dict], name: str) -> list[dict]:
    return sorted((span for span in spans if span["name"] == name), key=lambda span: span["timestamp"])


def parent() -> tuple[str, dict]:
    """A trace id of the client's own, so that whoever else writes of this request would be found in its trace."""
    trace_id = os.urandom(16).hex()
    return trace_id, {"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"}


def test_a_raw_stream_is_heard_while_the_rest_is_made(fast):
    with streaming(fast, "audio") as answer:
        assert answer.status_code == 200 and answer.headers["content-type"] == "audio/wav"
        assert "content-length" not in answer.headers and "x-trace-url" in answer.headers
        arrived = [(time.monotonic(), chunk) for chunk in answer.iter_bytes()]
        trace_id = answer.headers["x-trace-id"]
    data = b"".join(chunk for _, chunk in arrived)
    assert soundfile.read(io.BytesIO(data), dtype="int16")[0].size > 24_000 * 25, (
        "three pieces of 10 s, with short pauses between them"
    )
    spans = fast.trace(trace_id, spans=9)
    [root] = by_name(spans, "post /api/generate")
    assert root["tags"]["pieces"] == "3" and root["tags"]["text.length"] == str(len(TEXT))
    [heard] = [note["timestamp"] for note in root["annotations"] if note["value"] == "first chunk"]
    mels, sounds = by_name(spans, "generate_mel"), by_name(spans, "vocode_wav")
    assert [span["tags"]["piece"] for span in mels] == [span["tags"]["piece"] for span in sounds] == ["1", "2", "3"]
    assert len(by_name(spans, "preprocess_audio")) == len(by_name(spans, "extract_speaker")) == 1
    first_ended = sounds[0]["timestamp"] + sounds[0]["duration"]
    assert first_ended - 1 <= heard, "heard once it is there"
    assert mels[1]["timestamp"] >= first_ended, "and nobody ran beside it until then"
    assert heard < sounds[2]["timestamp"] < root["timestamp"] + root["duration"]
    assert arrived[-1][0] - arrived[0][0] > 0.1, "the rest was still made when the first of it had arrived"


def streams_told(ray_head, **labels: str) -> float:
    """Return what the metric of streams has counted under these labels, by all of Ray's agents."""
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    groups = json.loads((ray_head.logs.parent.parent / "prom_metrics_service_discovery.json").read_text())
    lines: list[str] = []
    for target in {target for group in groups for target in group["targets"]}:
        with contextlib.suppress(httpx.ConnectError):  # some of Ray's own servers are listed and not started
            lines += httpx.get(f"http://{target}/metrics", trust_env=False, timeout=20).text.splitlines()
    lines = [line for line in lines if line.startswith("ray_cosygraph_streams_total{")]
    lines = [line for line in lines if all(label in line for label in wanted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.proof
def test_a_stream_is_told_as_continuous_or_not_in_its_trace_and_in_the_metric(fast, slow, ray_head):
    def listen(app: App) -> dict[str, str]:
        with streaming(app, "audio", text=" ".join(SENTENCES[:2]), response_format="pcm") as answer:
            assert answer.status_code == 200
            for _ in answer.iter_raw():
                pass
        return by_name(app.trace(answer.headers["x-trace-id"], spans=7), "post /api/generate")[0]

    good = listen(fast)["tags"]
    assert good["stream.continuous"] == "true" and float(good["stream.underrun_ms"]) == 0
    assert float(good["stream.seconds"]) > 19, "two pieces of 10 s"
    with concurrent.futures.ThreadPoolExecutor(6) as pool:  # 1.5 s of one device for each piece of 3 s
        roots = list(pool.map(listen, [slow] * 6))
    dry = [root for root in roots if root["tags"]["stream.continuous"] == "false"]
    assert dry
    for root in dry:
        [began] = [note["timestamp"] for note in root["annotations"] if note["value"] == "gap began"]
        [heard] = [note["timestamp"] for note in root["annotations"] if note["value"] == "first chunk"]
        assert 2.9e6 < began - heard < 3.6e6, "when the first piece had been played"
        late_ms = (root["timestamp"] + root["duration"] - began) / 1000
        assert float(root["tags"]["stream.underrun_ms"]) == pytest.approx(late_ms, abs=300)
    end = time.monotonic() + 30  # Ray's agents tell every ten seconds
    while not (
        streams_told(ray_head, application="fast", continuous="true")
        and streams_told(ray_head, application="slow", continuous="false") >= len(dry)
    ):
        assert time.monotonic() < end
        time.sleep(1)


def test_events_tell_of_every_stage_and_agree_with_zipkin(fast):
    with streaming(fast, "sse", response_format="pcm") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = events(answer)
    assert [name for name, _ in found][0] == "stage" and [name for name, _ in found][-1] == "done"
    stages = [(event["stage"], event["piece"], event["state"]) for name, event in found if name == "stage"]
    wanted = [
        (stage, piece, state)
        for stage, pieces in (
            ("PREPROCESS_AUDIO", [1]),
            ("EXTRACT_SPEAKER", [1]),
            ("GENERATE_MEL", [1, 2, 3]),
            ("VOCODE_WAV", [1, 2, 3]),
        )
        for piece in pieces
        for state in ("started", "done")
    ]
    assert sorted(stages) == sorted(wanted)
    assert [event["pieces"] for name, event in found if name == "stage" and event["stage"] == "VOCODE_WAV"] == [3] * 6
    audio = [event for name, event in found if name == "audio"]
    heard = sum(len(base64.b64decode(event["audio"])) for event in audio) / 2 / 24_000
    done = found[-1][1]
    assert heard == pytest.approx(done["seconds"], abs=0.01) and done["seconds"] > 25
    assert 0 < done["first_audio_ms"] < done["total_ms"]
    assert done["real_time_factor"] == pytest.approx(done["total_ms"] / 1000 / done["seconds"], rel=0.01)
    spans = [span for span in fast.trace(done["trace_id"], spans=9) if span["name"] != "post /api/generate"]
    told = sorted((stage["stage"].lower(), str(stage["piece"]), stage["duration_ms"]) for stage in done["stages"])
    kept = sorted((span["name"], span["tags"].get("piece", "1"), span["duration"] / 1000) for span in spans)
    assert [entry[:2] for entry in told] == [entry[:2] for entry in kept]
    assert [entry[2] for entry in told] == pytest.approx([entry[2] for entry in kept], abs=0.1)
    assert all(stage["compute_ms"] is not None and stage["queue_ms"] is not None for stage in done["stages"])


def test_a_raw_stream_that_fails_has_no_end_and_one_trace_that_says_why(watched):
    trace_id, headers = parent()
    received = b""
    with streaming(watched, "audio", headers, text=BAD_SECOND) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            for chunk in answer.iter_bytes():
                received += chunk
    assert len(received) > 24_000, "the first sentence was heard"
    spans = watched.trace(trace_id, spans=6)
    [root] = by_name(spans, "post /api/generate")  # and none of the proxy's
    assert root["tags"]["error.type"] == "internal" and root["tags"]["http.status_code"] == "200"
    failed = {
        span["tags"]["piece"]: span["tags"]["error.type"]
        for span in by_name(spans, "generate_mel")
        if "error" in span["tags"]
    }
    assert failed.pop("2") == "internal"
    assert failed in ({}, {"3": "cancelled"}), "the third was given up for it, if it was under way"


def test_a_stream_of_events_that_fails_says_so(watched):
    with streaming(watched, "sse", text=BAD_SECOND) as answer:
        found = events(answer)
    assert sum(name == "audio" for name, _ in found) >= 1
    name, told = found[-1]
    assert name == "error" and told["status"] == 500 and told["error"]["type"] == "internal"
    assert told["trace_id"] == answer.headers["x-trace-id"] and "fault" not in json.dumps(told)


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_what_is_wrong_before_the_first_stage_has_its_status(fast, stream_format):
    with streaming(fast, stream_format, dialect="xx-XX") as answer:
        answer.read()
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "dialect"


def test_a_bad_clip_is_a_status_of_a_raw_stream_and_an_event_of_the_other(fast):
    def ask(stream_format: str) -> httpx.Response:
        return httpx.post(
            f"{fast.url}/api/generate",
            data={"text": TEXT, "dialect": "en-US", "stream_format": stream_format},
            files={"prompt_audio": ("clip.wav", tone(rate=8000))},
            timeout=30,
            trust_env=False,
        )

    raw, told = ask("audio"), ask("sse")
    assert raw.status_code == 400 and raw.json()["error"]["code"] == "sample_rate_too_low"
    assert told.status_code == 200
    assert '"status": 400' in told.text and "Audio sample rate 8000Hz" in told.text


def test_who_leaves_in_mid_stream_frees_what_waits_and_his_trace_says_so(slow):
    """GENERATE_MEL takes 1.5 s here, one at a time: three pieces would be 4.5 s."""
    trace_id, headers = parent()
    request = multipart(
        "127.0.0.1",
        {"text": TEXT, "dialect": "en-US", "stream_format": "audio"},
        tone(),
        path=f"/{slow.name}/api/generate",
        headers=headers,
    )
    slow.wait_ready()
    with socket.create_connection(("127.0.0.1", slow.port)) as client:
        client.sendall(request)
        client.settimeout(20)
        received = b""
        while len(received) < 60_000:  # the first piece
            received += client.recv(65536)
        time.sleep(0.5)  # the second one is computed now
    left = time.monotonic()
    spans = slow.trace(trace_id, spans=6)
    assert time.monotonic() - left < 5
    [root] = by_name(spans, "post /api/generate")
    assert root["tags"]["error.type"] == "cancelled" and root["tags"]["http.status_code"] == "499"
    cut = [span for span in by_name(spans, "generate_mel") if span["kind"] == "CLIENT"]
    assert {span["tags"]["error.type"] for span in cut} == {"cancelled"}
    # The third one waits for a place in the stage, or, where no recent piece tells how long one takes, for the second.
    pieces = {span["tags"]["piece"] for span in cut}
    assert "2" in pieces and pieces <= {"2", "3"}
    ended = max(span["timestamp"] + span["duration"] for span in cut)
    assert root["timestamp"] + root["duration"] - ended < 1_000_000
    before = time.monotonic()
    assert slow.post().status_code == 200
    # What ran goes on to its end, at most 1.5 s; what waited does not run at all.
    assert time.monotonic() - before < 2 * 1.5 + 1.2


def test_a_long_text_goes_through_in_pieces_side_by_side(fast):
    text = " ".join(
        f"This is sentence number {number} of a longer text, and it says nothing new." for number in range(12)
    )
    assert len(text) > 800
    refused = fast.post(text=text)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "text_too_long"
    answer = fast.post(text=text, long_form="true")
    assert answer.status_code == 200, answer.text
    sound, rate = soundfile.read(io.BytesIO(answer.content))
    spans = fast.trace(answer.headers["x-trace-id"], spans=11)
    [root] = by_name(spans, "post /api/generate")
    count = int(root["tags"]["pieces"])
    assert 5 <= count <= 12 and len(by_name(spans, "vocode_wav")) == count
    assert len(sound) / rate == pytest.approx(10 * count, rel=0.1)
    mels = by_name(spans, "generate_mel")
    assert max(int(span["tags"]["batch.size"]) for span in mels) > 1, "they share batches"
    beside = [
        sum(other["timestamp"] <= span["timestamp"] < other["timestamp"] + other["duration"] for other in mels)
        for span in mels
    ]
    assert 2 <= max(beside) <= 4, "no more than pieces_at_once at a time"


@pytest.mark.parametrize(
    "name, media",
    [
        ("wav", "audio/wav"),
        ("pcm", "audio/pcm"),
        ("flac", "audio/flac"),
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("aac", "audio/aac"),
    ],
)
def test_every_format_is_answered_whole_and_streamed(fast, name, media):
    import av

    whole = fast.post(response_format=name)
    assert whole.status_code == 200 and whole.headers["content-type"] == media
    with streaming(fast, "audio", response_format=name, text=SENTENCES[0]) as answer:
        assert answer.headers["content-type"] == media
        streamed = answer.read()
    if name == "pcm":
        assert len(whole.content) == len(streamed) == 480_000
        return
    for data in (whole.content, streamed):
        with av.open(io.BytesIO(data)) as file:
            seconds = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
        assert seconds == pytest.approx(10, abs=0.15)


def test_streams_count_in_admission_and_leave_it(watched):
    """Eight may be in the graph and one may wait: twelve streams at once are answered or refused, then all is free."""

    def ask(_) -> int:
        with streaming(watched, "audio") as answer:
            answer.read()
            return answer.status_code

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(ask, range(12)))
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 8
    assert watched.post().status_code == 200
