"""The graph as a client and an operator see it: real Ray Serve, real Zipkin, simulated models."""

import statistics
import time

import httpx
import pytest

from config.version import VERSION
from tests.helpers.serving import FAST, SERVICES, sound, tone

STAGES = {
    "preprocess_audio": "audio-service",
    "extract_speaker": "embedding-service",
    "generate_mel": "tts-service",
    "vocode_wav": "vocoder-service",
}


def by_name(spans):
    return {span["name"]: span for span in spans}


def test_a_plain_request_is_five_server_spans(fast):
    answer = fast.post(prompt_text="what is said", seed="7")
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/wav"
    assert answer.content[:4] == b"RIFF"
    trace_id = answer.headers["x-trace-id"]
    assert answer.headers["x-trace-url"].endswith(f"/zipkin/traces/{trace_id}")
    spans = fast.trace(trace_id, spans=5)
    assert len(spans) == 5 and {span["kind"] for span in spans} == {"SERVER"}
    named = by_name(spans)
    root = named["post /api/generate"]
    assert "parentId" not in root and root["localEndpoint"]["serviceName"] == "cosyvoice3-api"
    for stage, service in STAGES.items():
        assert named[stage]["localEndpoint"]["serviceName"] == service
        assert named[stage]["parentId"] == root["id"]
        assert named[stage]["tags"]["stage"] == stage.upper()
        assert {"queue.wait_ms", "compute_ms", "replica.id", "device", "model.name"} <= named[stage]["tags"].keys()
    for stage in ("extract_speaker", "generate_mel", "vocode_wav"):
        assert {"batch.id", "batch.size", "batch.wait_ms"} <= named[stage]["tags"].keys()
    clip = named["preprocess_audio"]["tags"]
    assert (clip["audio.sample_rate"], float(clip["audio.duration"]), clip["audio.format"]) == ("24000", 4.0, "wav")
    speaker = named["extract_speaker"]["tags"]
    assert (speaker["audio.sample_rate"], float(speaker["audio.duration"])) == ("24000", 4.0)
    assert speaker["model.version"] == named["vocode_wav"]["tags"]["model.version"]
    mel = named["generate_mel"]["tags"]
    assert (mel["request.dialect"], mel["request.dialect.code"]) == ("english-us", "en-US")
    assert (mel["request.mode"], mel["text.length"]) == ("fast", "5")
    assert (
        root["tags"]
        | {
            "request.dialect": "english-us",
            "request.dialect.code": "en-US",
            "request.language": "en",
            "request.mode": "fast",
            "text.length": "5",
            "text.script": "latin",
            "request.dialect.source": "request",
            "http.method": "POST",
            "http.route": "/api/generate",
            "http.status_code": "200",
        }
        == root["tags"]
    )
    assert not any("error" in span["tags"] for span in spans)


def test_spans_last_as_long_as_the_stages_compute(fast):
    """Known times are injected into the engine; a stage adds its own work to them, never 5 ms of it."""
    traces = [by_name(fast.trace(fast.post().headers["x-trace-id"], spans=5)) for _ in range(9)]
    for stage, key in (("extract_speaker", "encode_ms"), ("generate_mel", "generate_ms")):
        took = statistics.median(trace[stage]["duration"] / 1000 for trace in traces)
        assert 0 <= took - FAST[key] < 5, (stage, took)
    # Decoding, resampling and encoding the file are real work on top of the injected time: they count as compute.
    for stage, key in (("preprocess_audio", "prepare_ms"), ("vocode_wav", "vocode_ms")):
        spans = [trace[stage] for trace in traces]
        extra = statistics.median(span["duration"] / 1000 - float(span["tags"]["compute_ms"]) for span in spans)
        assert min(float(span["tags"]["compute_ms"]) for span in spans) >= FAST[key]
        assert extra < 5, (stage, extra)


def test_zipkin_draws_the_four_links(fast):
    fast.trace(fast.post().headers["x-trace-id"], spans=5)
    links = httpx.get(
        f"{fast.zipkin}/api/v2/dependencies",
        params={"endTs": int(time.time() * 1000) + 1000, "lookback": 3_600_000},
        trust_env=False,
    ).json()
    assert {(link["parent"], link["child"]) for link in links} >= {
        ("cosyvoice3-api", service) for service in SERVICES - {"cosyvoice3-api"}
    }


@pytest.mark.parametrize(
    "headers, trace_id, parent",
    [
        (
            {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
            "4bf92f3577b34da6a3ce929d0e0e4736",
            "00f067aa0ba902b7",
        ),
        (
            {"b3": "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"},
            "80f198ee56343ba864fe8b2a57d3eff7",
            "e457b5a2e4d86bd1",
        ),
        (
            {
                "X-B3-TraceId": "463ac35c9f6413ad48485a3953bb6124",
                "X-B3-SpanId": "a2fb4a1d1a96d312",
                "X-B3-Sampled": "1",
            },
            "463ac35c9f6413ad48485a3953bb6124",
            "a2fb4a1d1a96d312",
        ),
    ],
)
def test_a_callers_trace_goes_on(fast, headers, trace_id, parent):
    answer = fast.post(headers=headers)
    assert answer.headers["x-trace-id"] == trace_id
    spans = fast.trace(trace_id, spans=5)
    assert by_name(spans)["post /api/generate"]["parentId"] == parent


def test_sixteen_at_once_each_get_their_own_answer(fast):
    """The simulated voice's pitch follows text and seed, so a mixed-up answer would sound different."""
    alone = [sound(fast.post(seed=str(seed))) for seed in range(4)]
    assert len(set(alone)) == 4
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: fast.post(seed=str(n % 4)), range(32)))
    assert [sound(answer) for answer in answers] == 8 * alone


def test_co_batched_requests_share_a_batch_id(fast):
    samples = fast.many(clients=16, count=48)
    assert {sample.status for sample in samples} == {200}
    tags = [by_name(fast.trace(sample.trace_id, spans=5))["generate_mel"]["tags"] for sample in samples]
    sizes = {}
    for tag in tags:
        sizes.setdefault(tag["batch.id"], []).append(int(tag["batch.size"]))
    assert all(size == [len(size)] * len(size) for size in sizes.values()), "batch.size is the number of its members"
    assert max(map(len, sizes.values())) > 1, "16 at once and never a batch"


def test_dialects_say_what_the_engine_can_speak(fast, voice):
    listed = httpx.get(f"{voice.url}/api/dialects", trust_env=False).json()
    spoken = {entry["code"]: entry["supported"] for entry in listed["dialects"]}
    assert spoken["en-US"] and spoken["zh-CN"] and not spoken["zh-Sichuan"]
    assert len([code for code in spoken if code.startswith("zh-")]) == 18
    assert {entry["code"]: entry["name"] for entry in listed["dialects"]}["zh-Sichuan"] == "四川话"
    assert "no true clone" in listed["engine"]["notice"]
    assert all(
        entry["supported"] for entry in httpx.get(f"{fast.url}/api/dialects", trust_env=False).json()["dialects"]
    )


def test_health_ready_and_docs(fast):
    assert httpx.get(f"{fast.url}/health", trust_env=False).json() == {"status": "ok", "version": VERSION}
    ready = httpx.get(f"{fast.url}/ready", trust_env=False)
    assert ready.status_code == 200 and set(ready.json()["stages"]) == SERVICES - {"cosyvoice3-api"}
    assert httpx.get(f"{fast.url}/docs", trust_env=False).status_code == 200
    paths = httpx.get(f"{fast.url}/openapi.json", trust_env=False).json()["paths"]
    form = paths["/api/generate"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["text"] and {"prompt_audio", "voice", "dialect"} < set(form["properties"])


def test_other_containers_are_read(fast):
    for format, subtype in (("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)):
        answer = fast.post(clip=tone(format=format, subtype=subtype))
        assert answer.status_code == 200, (format, answer.text)
