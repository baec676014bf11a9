"""CosyVoice3 as the graph: HTTP, all four replicas, Zipkin. The weights are random, everything else is as it is in use.

The checkpoint is the script's tiny one, with as many layers in its language model as the official one has, so that a
long text decodes for seconds.
"""

from __future__ import annotations

import base64
import concurrent.futures
import io
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import httpx
import numpy as np
import pytest
import soundfile
import yaml
from websockets.sync.client import connect

from bench.measuring.load import multipart
from cluster.serving import Application
from engines.contract import Utterance, Voice, create
from engines.cosyvoice3.random_checkpoint import TINY, make
from speech import audio, pcm
from tests.helpers.serving import CLUSTER, App, sound, tone

pytestmark = pytest.mark.proof

NAME = "cosyvoice3"
#: one part of at least 480 tokens: the longest the language model is ever at
LONG = {"text": "一二三四五六七八九十" * 8, "dialect": "zh-CN"}
ONE_LSB = 1 / 32768


def clip(seed: int = 1) -> bytes:
    """Noise, which is as good as a voice for a model that has learnt nothing."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(seed).standard_normal(24_000 * 3) / 10, 24_000, format="WAV")
    return file.getvalue()


CLIP = clip()


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict:
    directory = make(tmp_path_factory.mktemp("checkpoint") / "tiny", replace(TINY, layers=24))
    return {"model_dir": str(directory.path), "lm_rows": 10, "lm_positions": 6000, "flow_rows": 8}


@pytest.fixture(scope="module")
def served(apps, options, tracing) -> App:
    """The fifth application, beside those that all tests share, out of the project's own config; gone afterwards."""
    neighbour = apps["fast"]
    entry = yaml.safe_load((CLUSTER / "serve.cosyvoice3.yaml").read_text())["applications"][0]
    on_cpu = {"device": "cpu", "threads": 1}
    entry["args"] |= {
        "engine_options": options,
        "tracing": tracing,
        "voice_cache_mb": 0,
        "embedding": on_cpu,
        "tts": on_cpu,
        "vocoder": on_cpu,
    }
    entry["args"]["limits"]["deadline_s"] = 120  # for a replica to be killed and another to start, beside other work
    for deployment in entry["deployments"]:
        if scaling := deployment.get("autoscaling_config"):
            scaling["max_replicas"] = 1  # whoever is in the language model is in this one
        deployment["ray_actor_options"]["num_cpus"] = 0.2
        if deployment["name"] == "tts-service":
            deployment["user_config"]["max_batch_size"] = options["lm_rows"]
    applications = neighbour.config["applications"]  # one list for all, or redeploying another would end this one
    applications.append(entry | {"name": NAME, "route_prefix": f"/{NAME}"})
    try:
        neighbour.dashboard.deploy(Application(neighbour.config))
        neighbour.dashboard.wait_until_running(NAME, print)
        app = App(NAME, neighbour.port, neighbour.zipkin, neighbour.dashboard, neighbour.config)
        app.wait_ready()
        yield app
    finally:
        applications[:] = [one for one in applications if one["name"] != NAME]
        neighbour.dashboard.deploy(Application(neighbour.config))


class InOneProcess:
    """The same engine without the graph: a clip as a file in, a WAV file's samples out."""

    def __init__(self, options: dict) -> None:
        self.engine = create(NAME, options)
        self.encoder, self.acoustic, self.vocoder = (
            load("cpu", 1)
            for load in (self.engine.load_speaker_encoder, self.engine.load_acoustic_model, self.engine.load_vocoder)
        )

    def __call__(self, fields: dict) -> np.ndarray:
        utterance, voice = self._read(fields)
        (mel,) = self.acoustic.generate([(utterance, voice)])
        (sound,) = self.vocoder.vocode([mel])
        return samples(pcm.to_wav(sound, self.engine.capabilities.sample_rate))

    def streamed(self, fields: dict) -> np.ndarray:
        """Its chunks put together, as 16 bit."""
        utterance, voice = self._read(fields)
        ticket = self.acoustic.submit(utterance, voice, stream=True)
        sounds, given, ended = [], 0, False
        while not ended:
            for found, chunk in self.acoustic.step():
                assert found is ticket
                (sound,) = self.vocoder.vocode_chunks([(chunk, given)])
                sounds.append(sound)
                given, ended = 0 if chunk.final else given + len(sound), chunk.last
        return samples(pcm.to_wav(np.concatenate(sounds), self.engine.capabilities.sample_rate))

    def _read(self, fields: dict) -> tuple[Utterance, Voice]:
        utterance = Utterance(
            **{name: {"seed": int, "speed": float}.get(name, str)(value) for name, value in fields.items()}
        )
        heard = audio.decode(CLIP, seconds=self.engine.capabilities.reference_seconds)
        (voice,) = self.encoder.encode([self.engine.prepare(heard.samples, heard.rate, utterance.prompt_text)])
        return utterance, voice


@pytest.fixture(scope="module")
def in_one_process(options) -> InOneProcess:
    return InOneProcess(options)


def samples(wav: bytes) -> np.ndarray:
    found, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    assert rate == 24_000
    return found


def spans_of(app: App, trace_id: str, *names: str, within_s: float = 20.0) -> dict[str, dict]:
    """By name, as soon as Zipkin has these."""
    end = time.monotonic() + within_s
    while True:
        spans = {span["name"]: span for span in app.trace(trace_id)}
        if set(names) <= spans.keys():
            return spans
        assert time.monotonic() < end, f"Zipkin has {sorted(spans)} of {trace_id}, not all of {names}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def rows(ray_driver, served) -> Callable[[], dict[str, int]]:
    """tts-service's rows now. Asked once before any test: a handle's first call takes seconds."""
    from ray import serve

    remote = serve.get_deployment_handle("tts-service", NAME).rows.remote

    def ask() -> dict[str, int]:
        return remote().result(timeout_s=10)

    assert ask() == {"rows": 10, "decoding": 0, "waiting": 0}
    return ask


def until(rows: Callable[[], dict[str, int]], within_s: float = 10.0, **wanted: int) -> None:
    end = time.monotonic() + within_s
    while not wanted.items() <= (now := rows()).items():
        assert time.monotonic() < end, now
        time.sleep(0.02)


MODES = {
    "zero-shot": {"text": "Hello there.", "dialect": "en-US", "prompt_text": "what the clip says", "seed": "3"},
    "cross-lingual": {"text": "你好，今天好。", "dialect": "zh-CN", "seed": "4"},
    "dialect": {"text": "今天好。", "dialect": "zh-Sichuan"},
    "dialect, with the transcript": {"text": "今天好。", "dialect": "zh-Cantonese", "prompt_text": "说的话"},
    "style": {"text": "Good news!", "dialect": "en-US", "mode": "instruct", "style_instruction": "happy"},
    "dialect and style": {"text": "好。", "dialect": "zh-Dongbei", "mode": "instruct", "style_instruction": "非常开心"},
    "speed": {"text": "ソウデスカ。", "dialect": "ja-JP", "speed": "1.5"},
    "in parts": {"text": "The quick brown fox jumps over the lazy dog. " * 4, "dialect": "en-US", "seed": "4294967295"},
}


@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
def test_every_mode_sounds_as_it_does_in_one_process(served, in_one_process, fields):
    answer = served.post(clip=CLIP, **fields)
    assert answer.status_code == 200, answer.text
    heard, alone = samples(answer.content), in_one_process(fields)
    assert heard.shape == alone.shape and np.abs(alone).max() > 1e-3
    assert np.abs(heard - alone).max() <= ONE_LSB


def test_the_modes_do_not_sound_alike(served):
    """Or the test before would say nothing of the fields that tell them apart."""
    sounds = {
        served.post(clip=CLIP, text="今天好。", seed="1", **more).content
        for more in (
            {"dialect": "zh-CN"},
            {"dialect": "zh-CN", "prompt_text": "说的话"},
            {"dialect": "zh-Sichuan"},
            {"dialect": "zh-Cantonese"},
            {"dialect": "zh-CN", "mode": "instruct", "style_instruction": "happy"},
            {"dialect": "zh-CN", "mode": "instruct", "style_instruction": "sad"},
        )
    }
    assert len(sounds) == 6


def test_the_trace_tells_of_decoding_and_flow(served):
    answer = served.post(clip=clip(2), **MODES["zero-shot"])  # a clip that nobody has sent before: all stages work
    spans = spans_of(served, answer.headers["x-trace-id"], "text_frontend", "flow_matching", "vocode_wav")
    assert len(spans) == 8 and sorted(name for name, span in spans.items() if span.get("kind") == "SERVER") == [
        "extract_speaker",
        "generate_mel",
        "post /api/generate",
        "preprocess_audio",
        "vocode_wav",
    ]
    stage, lm, flow = spans["generate_mel"], spans["lm_decode"], spans["flow_matching"]
    for phase in (spans["text_frontend"], lm, flow):
        assert phase["parentId"] == stage["id"] and "kind" not in phase
        assert stage["timestamp"] <= phase["timestamp"]
        # Start and length are each cut to whole microseconds.
        assert phase["timestamp"] + phase["duration"] <= stage["timestamp"] + stage["duration"] + 1
    assert lm["timestamp"] + lm["duration"] <= flow["timestamp"] + 1
    tags = {key: float(lm["tags"][key]) for key in ("lm.steps", "lm.tokens_per_second", "batch.size", "batch.wait_ms")}
    assert tags["lm.steps"] >= 24 and tags["batch.size"] == 1 and tags["batch.wait_ms"] >= 0
    assert tags["lm.tokens_per_second"] == pytest.approx(tags["lm.steps"] / (lm["duration"] / 1e6), rel=0.05)
    assert flow["tags"]["batch.size"] == "1" and flow["tags"]["flow.steps"] == "10"
    seconds = len(samples(answer.content)) / 24_000
    assert float(flow["tags"]["flow.frames"]) == pytest.approx(50 * seconds)
    assert float(flow["tags"]["batch.wait_ms"]) < 30
    assert stage["tags"]["batch.id"] == flow["tags"]["batch.id"] and stage["tags"]["batch.size"] == "1"
    assert float(stage["tags"]["compute_ms"]) == pytest.approx((lm["duration"] + flow["duration"]) / 1000, abs=30)
    assert 0 <= float(stage["tags"]["batch.wait_ms"]) < 200
    assert stage["tags"]["model.name"] == "fun-cosyvoice3-0.5b"


def decoding(app: App, answer: httpx.Response) -> tuple[int, int, dict]:
    lm = spans_of(app, answer.headers["x-trace-id"], "lm_decode")["lm_decode"]
    return lm["timestamp"], lm["timestamp"] + lm["duration"], lm["tags"]


def test_a_short_request_joins_a_long_one_and_is_answered_first(served, rows):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        long = pool.submit(served.post, clip=CLIP, **LONG)
        until(rows, decoding=1)
        short = served.post(clip=CLIP, text="Hi.", dialect="en-US")
        assert short.status_code == 200 and not long.done()
        long = long.result()
    assert long.status_code == 200
    (long_start, long_end, long_tags), (start, end, tags) = decoding(served, long), decoding(served, short)
    assert long_start < start < end < long_end, "from its first to its last step it had company"
    assert tags["batch.size"] == "2" and long_tags["batch.size"] in ("1", "2")
    assert int(long_tags["lm.steps"]) >= 480 > 5 * int(tags["lm.steps"])
    until(rows, decoding=0, waiting=0)


def test_who_leaves_frees_his_row_and_his_trace_says_so(served, rows):
    """Beside him goes one with the same text and seed, who would end with the same step."""
    trace_id = os.urandom(16).hex()
    request = multipart(
        "127.0.0.1",
        LONG,
        CLIP,
        path=f"/{NAME}/api/generate",
        headers={"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"},
    )
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stays = pool.submit(served.post, clip=CLIP, **LONG)
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(request)
            until(rows, decoding=2)
        until(rows, decoding=1)
        freed_us = time.time_ns() / 1000
        stays = stays.result()
    assert stays.status_code == 200
    assert decoding(served, stays)[1] > freed_us + 300_000, "the other one went on"
    until(rows, decoding=0, waiting=0)
    spans = spans_of(served, trace_id, "post /api/generate", "generate_mel")
    root, cut = spans["post /api/generate"], spans["generate_mel"]
    assert root["tags"]["error.type"] == "cancelled" and root["tags"]["http.status_code"] == "499"
    assert (cut["kind"], cut["remoteEndpoint"]["serviceName"]) == ("CLIENT", "tts-service")
    assert cut["tags"]["error.type"] == "cancelled"


def test_eight_at_once_sound_as_they_do_alone(served, rows):
    def speak(seed: int) -> httpx.Response:
        return served.post(
            clip=CLIP, text="One and the same.", dialect="en-US", seed=str(seed), prompt_text="what the clip says"
        )

    alone = [speak(seed) for seed in range(8)]
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        company = pool.submit(served.post, clip=CLIP, **LONG)  # so that nobody is ever alone
        until(rows, decoding=1)
        together = list(pool.map(speak, range(8)))
        assert company.result().status_code == 200
    assert {answer.status_code for answer in alone + together} == {200}
    assert len({sound(answer) for answer in alone}) == 8, "each seed is a voice of its own"
    for one, other in zip(alone, together, strict=True):
        assert samples(one.content).shape == samples(other.content).shape, "the same tokens"
        assert np.abs(samples(one.content) - samples(other.content)).max() <= ONE_LSB
    traces = [spans_of(served, answer.headers["x-trace-id"], "generate_mel", "flow_matching") for answer in together]
    shared = [int(spans["generate_mel"]["tags"]["batch.size"]) for spans in traces]
    assert min(shared) >= 2 and max(shared) >= 4, "they decoded together"
    sizes: dict[str, list[int]] = {}
    for spans in traces:
        tags = spans["flow_matching"]["tags"]
        sizes.setdefault(tags["batch.id"], []).append(int(tags["batch.size"]))
    assert all(len(size) <= size[0] == max(size) for size in sizes.values()), "the long one may be in there too"


@pytest.mark.parametrize(
    "change, status, kind, stage",
    [
        ({"clip": tone(rate=8000)}, 400, "input_validation", "preprocess_audio"),
        ({"dialect": "en-GB"}, 422, "unsupported_dialect", None),
        ({"mode": "instruct"}, 400, "input_validation", None),
        ({"text": "<b>bold</b>"}, 400, "input_validation", None),
    ],
)
def test_errors_are_what_they_are_with_any_engine(served, change, status, kind, stage):
    answer = served.post(**{"clip": CLIP} | change)
    assert answer.status_code == status and answer.json()["error"]["type"] == kind, answer.text
    spans = spans_of(served, answer.headers["x-trace-id"], "post /api/generate", *[stage] * bool(stage))
    assert spans["post /api/generate"]["tags"]["error.type"] == kind
    failed = {name for name, span in spans.items() if "error" in span["tags"]}
    assert failed == {"post /api/generate", stage} - {None}


@pytest.mark.parametrize(
    "fields",
    [
        LONG | {"seed": "5"},
        {"text": "The quick brown fox jumps over the lazy dog. " * 4, "dialect": "en-US", "seed": "9"},
    ],
    ids=["one part", "in parts"],
)
def test_a_stream_comes_in_chunks_and_sounds_like_the_engine_in_one_process(served, in_one_process, fields):
    """Attention in a stream is by chunks, so the reference is the engine's own stream and not its whole answer."""
    arrived = []
    with httpx.stream(
        "POST",
        f"{served.url}/api/generate",
        data=fields | {"stream_format": "audio", "response_format": "pcm"},
        files={"prompt_audio": ("clip.wav", CLIP)},
        timeout=60,
        trust_env=False,
    ) as answer:
        assert answer.status_code == 200
        for data in answer.iter_bytes():
            arrived.append((time.monotonic(), data))
    heard = np.frombuffer(b"".join(data for _, data in arrived), "<i2").astype(np.float32) / 32768
    alone = in_one_process.streamed(fields)
    assert heard.shape == alone.shape and np.abs(alone).max() > 1e-3
    assert np.abs(heard - alone).max() <= 4 * ONE_LSB
    spans = served.trace(answer.headers["x-trace-id"], spans=7)
    servers = {span["name"]: span for span in spans if span.get("kind") == "SERVER"}
    assert len([span for span in spans if span.get("kind") == "SERVER"]) == 5, "one span a stage, whatever the chunks"
    mel, vocoder = servers["generate_mel"], servers["vocode_wav"]
    assert int(mel["tags"]["stream.chunks"]) == int(vocoder["tags"]["stream.chunks"]) >= 3
    firsts = [
        [note["timestamp"] for note in span["annotations"] if note["value"] == "first chunk"]
        for span in (mel, vocoder, servers["post /api/generate"])
    ]
    assert [len(moments) for moments in firsts] == [1, 1, 1] and firsts[0] < firsts[1] < firsts[2]
    assert firsts[2][0] < mel["timestamp"] + mel["duration"], "heard while the text was still being said"
    assert sum(span["name"] == "flow_matching" for span in spans) >= 2


def test_a_client_that_leaves_a_stream_frees_its_row(served, rows):
    trace_id = os.urandom(16).hex()
    request = multipart(
        "127.0.0.1",
        LONG | {"stream_format": "audio"},
        CLIP,
        path=f"/{NAME}/api/generate",
        headers={"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"},
    )
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(request)
        until(rows, decoding=1)
        client.settimeout(20)
        client.recv(4096)  # the headers, and so the first chunk
    left = time.monotonic()
    until(rows, decoding=0, waiting=0)
    assert time.monotonic() - left < 2
    spans = {span["name"]: span for span in served.trace(trace_id, spans=5)}
    root = spans["post /api/generate"]
    assert root["tags"]["error.type"] == "cancelled" and root["tags"]["http.status_code"] == "499"
    assert spans["generate_mel"]["kind"] == "CLIENT"


def test_streams_and_wholes_side_by_side_sound_as_they_do_alone(served, rows):
    def whole(seed: int) -> bytes:
        return served.post(
            clip=CLIP, text="One and the same.", dialect="en-US", seed=str(seed), response_format="pcm"
        ).content

    def streamed(seed: int) -> bytes:
        return served.post(
            clip=CLIP,
            text="One and the same.",
            dialect="en-US",
            seed=str(seed),
            response_format="pcm",
            stream_format="audio",
        ).content

    asked = [(streamed, 1), (whole, 2), (streamed, 3), (whole, 4)]
    alone = [np.frombuffer(how(seed), "<i2").astype(int) for how, seed in asked]
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        company = pool.submit(served.post, clip=CLIP, **LONG)
        until(rows, decoding=1)
        together = [np.frombuffer(data, "<i2").astype(int) for data in pool.map(lambda one: one[0](one[1]), asked)]
        assert company.result().status_code == 200
    for one, other in zip(alone, together, strict=True):
        assert one.shape == other.shape and np.abs(one - other).max() <= 4


def heard(served: App, fields: dict, at_first: Callable[[], None]) -> tuple[np.ndarray, str]:
    """Read a stream; return its events and its trace. `at_first` is called when its first audio has come."""
    data = b""
    with httpx.stream(
        "POST",
        f"{served.url}/api/generate",
        timeout=120,
        trust_env=False,
        data=fields | {"stream_format": "audio", "response_format": "pcm"},
        files={"prompt_audio": ("clip.wav", CLIP)},
    ) as answer:
        assert answer.status_code == 200, answer.read()
        for chunk in answer.iter_bytes():
            if not data:
                at_first()
            data += chunk
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768, answer.headers["x-trace-id"]


def pid_of(served: App, service: str) -> int:
    [replica] = served.replicas(service)
    return replica["pid"]


#: many chunks, and said twice in a test's time
FOR_A_WHILE = {"text": "一二三四五六七八九十" * 4, "dialect": "zh-CN", "seed": "6"}


@pytest.mark.parametrize("service, stage", [("tts-service", "generate_mel"), ("vocoder-service", "vocode_wav")])
def test_a_stream_whose_stage_dies_in_the_middle_goes_on_where_it_was(served, in_one_process, service, stage):
    """The only replica, so that a new one goes on: it says the same again, and what was heard is passed over."""
    pid = pid_of(served, service)

    def die() -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1)  # the other stage goes on meanwhile
        os.kill(pid, signal.SIGKILL)

    try:
        sound, trace_id = heard(served, FOR_A_WHILE, die)
    finally:
        served.wait_ready()
    assert pid_of(served, service) != pid
    alone = in_one_process.streamed(FOR_A_WHILE)
    assert sound.shape == alone.shape and np.abs(sound - alone).max() <= 4 * ONE_LSB
    spans = served.trace(trace_id, spans=5)
    [root] = [span for span in spans if span["name"] == "post /api/generate"]
    assert "error" not in root["tags"] and root["tags"]["http.status_code"] == "200"
    clients = [(span["name"], span["tags"]["error"]) for span in spans if span.get("kind") == "CLIENT"]
    if service == "tts-service":
        assert clients == [(stage, "the replica died")]
    else:  # Serve gives a call that was not taken yet to the new one; by then the chunk may have to be made again
        assert set(clients) <= {(stage, "the replica died"), ("generate_mel", "the stream ended before its last chunk")}
    [went_on] = [
        span for span in spans if span.get("kind") == "SERVER" and span["name"] == stage and "error" not in span["tags"]
    ]
    assert went_on["tags"]["replica.id"] in [replica["replica_id"] for replica in served.replicas(service)]


def test_one_whose_stage_dies_twice_ends_with_an_error(served):
    killed, told = set(), []
    with httpx.stream(
        "POST",
        f"{served.url}/api/generate",
        timeout=120,
        trust_env=False,
        data=FOR_A_WHILE | {"stream_format": "sse"},
        files={"prompt_audio": ("clip.wav", CLIP)},
    ) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            told += [line] if line else []
            if line == "event: audio":  # the first of the first replica, and of the next one
                for pid in {replica["pid"] for replica in served.replicas("tts-service")} - killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
    served.wait_ready()
    assert len(killed) == 2 and told[-2] == "event: error" and "event: done" not in told
    error = json.loads(told[-1].removeprefix("data: "))
    assert error["status"] == 503 and error["error"]["type"] == "stage_unavailable"
    assert "tts-service is not available" in error["error"]["message"]
    spans = served.trace(answer.headers["x-trace-id"], spans=5)
    [root] = [span for span in spans if span["name"] == "post /api/generate"]
    assert root["tags"]["error.type"] == "stage_unavailable"
    lost = [span["tags"]["error"] for span in spans if span.get("kind") == "CLIENT" and span["name"] == "generate_mel"]
    assert lost == ["the replica died"] * 2
    assert sum(span["name"] == "vocode_wav" for span in spans) == 1, "or its work would not show"


def test_a_text_is_said_token_by_token_while_it_is_written(served, rows):
    """Over a WebSocket: heard before the text is complete, no row taken while it waits, and one trace for all calls."""
    config = {
        "type": "session.config",
        "ref_audio": f"data:audio/wav;base64,{base64.b64encode(CLIP).decode()}",
        "dialect": "en-US",
        "response_format": "pcm",
        "split_granularity": "token",
        "stream_audio": True,
    }
    url = served.url.replace("http://", "ws://") + "/v1/audio/speech/stream"
    heard = []

    def until_event(ws, kind: str) -> dict:
        while True:
            message = ws.recv(timeout=60)
            if isinstance(message, bytes):
                heard.append(message)
            elif (found := json.loads(message))["type"] == kind or found["type"] == "error":
                assert found["type"] == kind, found
                return found

    with connect(url, proxy=None) as ws:
        ws.send(json.dumps(config))
        until_event(ws, "session.configured")
        ws.send(json.dumps({"type": "input.text", "text": "The quick brown fox jumps over the lazy dog and runs "}))
        until_event(ws, "audio.start")
        while not heard:
            heard.append(ws.recv(timeout=60))
        until(rows, decoding=0, waiting=0)
        for word in "into the deep dark wood without a single look behind".split():
            ws.send(json.dumps({"type": "input.text", "text": f"{word} "}))
        ws.send(json.dumps({"type": "input.done"}))
        done = until_event(ws, "session.done")
    assert done["seconds"] == pytest.approx(sum(map(len, heard)) / 2 / 24_000) and done["first_audio_ms"] > 0
    end = time.monotonic() + 20
    while len(spans := served.trace(done["trace_id"])) < 4 and time.monotonic() < end:
        time.sleep(0.2)
    calls = [span for span in spans if span["name"] == "generate_mel" and span.get("kind") == "SERVER"]
    assert len(calls) >= 2, "each time that the text ran out"
    ran_out = [[note["value"] for note in span.get("annotations", ())].count("text ran out") for span in calls]
    assert sum(ran_out) == len(calls) - 1, "all but the last"
    assert len([span for span in spans if span["name"] == "vocode_wav"]) == 1
    assert all("error" not in span.get("tags", {}) for span in spans)
