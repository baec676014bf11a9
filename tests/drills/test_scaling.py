"""A burst on a real Ray Serve, with the scaling policy and with Serve's default: the same arrivals, the same replicas.

The simulated engine, so that a replica's device is a stated time: GENERATE_MEL takes 0.3 s, and a tenth of a second for
each further request of a batch. The figures are printed (`pytest -s`) and stand in results/scaling.json. Eight minutes.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.measuring.clips import clip
from bench.measuring.load import Sample, arrivals, multipart, open_loop, percentile
from bench.measuring.records import about, save
from cluster import node_environment, ports, ray_head
from cluster.application import SCALING
from cluster.ray_head import RayHead
from cluster.serving import Application, Dashboard, wait_until_ready

pytestmark = [pytest.mark.drill, pytest.mark.in_order]

RESULTS = Path(__file__).parent / "results" / "scaling.json"
ENGINE = {"prepare_ms": 5, "encode_ms": 5, "generate_ms": 300, "batch_slope": 0.33, "vocode_ms": 20, "seconds": 1}
TTS = "tts-service"
MOST = {"cosyvoice3-api": 2, "audio-service": 2, "embedding-service": 2, TTS: 5, "vocoder-service": 2}
CALM_S, BURST_S, AFTER_S = 40, 60, 100
CALM, BURST = 1.5, 14.0  #: requests a second; a replica of tts-service does 8 in full batches
WAIT_S = 0.4
SAMPLE_S = 0.5


def config(policy: str, folder: Path, port: int) -> Application:
    """Return the cluster's config with the simulated engine, one replica at least, and one of the two policies."""
    application = Application.read(
        node_environment.CONFIG,
        port,
        {
            "engine": "simulated",
            "engine_options": ENGINE,
            "voice_cache_mb": 0,
            "tracing": {"zipkin_url": None, "spans_file": str(folder / "spans"), "spool_dir": str(folder / "spool"),
                        "sampling": {"ratio": 0.0}},
        },
        watchdog=True,
    )  # fmt: skip
    graph, watchdog = application.config["applications"]
    graph["args"] |= {"access": {"required": False}, "voices": {}}
    application.config["proxy_location"] = "HeadOnly"
    watchdog["args"] |= {"check_every_s": 1, "canary_every_s": 600, "canary_key_file": None}
    watchdog["args"]["tracing"] = {"spans_file": str(folder / "spans-watchdog"), "spool_dir": str(folder / "spool")}
    for deployment in graph["deployments"]:
        deployment["ray_actor_options"] = {"num_cpus": 0.2}
        deployment.pop("max_replicas_per_node", None)
        deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": MOST[deployment["name"]]}
        if policy == "ours":
            deployment["autoscaling_config"] |= {
                "upscale_delay_s": 0, "downscale_delay_s": 0, "metrics_interval_s": 1, "look_back_period_s": 10,
            }  # fmt: skip
    if policy == "ours":
        kwargs = {"wait_s": WAIT_S, "hold_s": 30}
        graph["autoscaling_policy"] = {"policy_function": SCALING, "policy_kwargs": kwargs}
    return application


class ReplicaSeconds(threading.Thread):
    """Counts the replicas that are there, running or not, until it is told to stop."""

    def __init__(self, dashboard: Dashboard) -> None:
        super().__init__(daemon=True)
        self._dashboard = dashboard
        self._over = threading.Event()
        self.seconds = 0.0
        self.history: list[tuple[float, dict[str, int]]] = []

    def run(self) -> None:
        began = before = time.monotonic()
        while not self._over.wait(SAMPLE_S):
            deployments = self._dashboard.applications()["cosygraph"]["deployments"]
            counts = {name: len(one["replicas"]) for name, one in deployments.items()}
            now = time.monotonic()
            self.seconds += sum(counts.values()) * (now - before)
            before = now
            self.history.append((round(now - began, 1), {name: counts[name] for name in MOST}))

    def stop(self) -> None:
        self._over.set()
        self.join()


def load(port: int) -> list[Sample]:
    """Send a calm, a burst and another calm, open loop."""
    parts = [(CALM, CALM_S, 0), (BURST, BURST_S, CALM_S), (CALM, AFTER_S, CALM_S + BURST_S)]
    moments = [begin + at for number, (rate, s, begin) in enumerate(parts) for at in arrivals(rate, s, seed=number)]
    request = multipart(f"127.0.0.1:{port}", {"text": "Hello there", "dialect": "en-US"}, clip(4))
    return asyncio.run(open_loop("127.0.0.1", port, [(at, request) for at in moments], timeout_s=400))


def measured(policy: str, folder: Path) -> dict[str, Any]:
    """Run the load on a Ray head of its own."""
    port = ports.any_free()
    heads: list[RayHead] = []
    application = config(policy, folder, port)
    try:
        head = ray_head.start(ports.any_free(), folder / "ray.log", num_cpus=8, num_gpus=8, remember=heads.append)
        dashboard = Dashboard(head)
        dashboard.deploy(application)
        for name in ("cosygraph", "watchdog"):
            dashboard.wait_until_running(name, print)
        wait_until_ready(f"http://127.0.0.1:{port}")
        for _ in range(5):
            httpx.post(
                f"http://127.0.0.1:{port}/api/generate",
                data={"text": "Hello", "dialect": "en-US"},
                files={"prompt_audio": ("clip.wav", clip(4))},
                timeout=60,
                trust_env=False,
            ).raise_for_status()
        counted = ReplicaSeconds(dashboard)
        counted.start()
        samples = load(port)
        counted.stop()
        time.sleep(5)  # for the watchdog's last look
    finally:
        for head in heads:
            head.stop(keep_logs_in=folder / "logs")
    answers = [sample.ms / 1000 for sample in samples]
    return {
        "requests": len(samples),
        "failed": sum(sample.status != 200 for sample in samples),
        "statuses": {str(status): count for status, count in Counter(sample.status for sample in samples).items()},
        "p50_s": round(percentile(answers, 50), 2),
        "p99_s": round(percentile(answers, 99), 2),
        "longest_s": round(max(answers), 2),
        "replica_s": round(counted.seconds),
        "most": {name: max(counts[name] for _, counts in counted.history) for name in MOST},
        "tts": _turns(counted.history),
    }


def _turns(history: list[tuple[float, dict[str, int]]]) -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []
    for at, counts in history:
        if not found or found[-1][1] != counts[TTS]:
            found.append((at, counts[TTS]))
    return found


def spans(folder: Path) -> list[dict[str, Any]]:
    """Return all spans that were written: of kept traces, which are the failed and slow ones, and the watchdog's."""
    return [
        span
        for file in folder.glob("spans*")
        for line in file.read_text().splitlines()
        for span in (json.loads(line) if line.startswith("[") else [json.loads(line)])
    ]


def scale_events(folder: Path) -> list[dict[str, Any]]:
    return [span for span in spans(folder) if span["name"].upper().startswith("SCALED_")]


def _read(folder: Path, tag: str) -> list[str]:
    return [span["tags"][tag] for span in spans(folder) if tag in span["tags"] and "parentId" not in span]


def _words(name: str, tags: dict[str, str], duration: int) -> str:
    change = f"{tags['scaling.from']}-{tags['scaling.to']}"
    return f"{name} {tags['watchdog.service']} {change} {tags['watchdog.cause']} {duration / 1e6:.1f} s"


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {"about": about(), "engine": ENGINE, "wait_s": WAIT_S, "burst": [CALM, BURST]}
    yield found
    save(RESULTS, found)


@pytest.mark.parametrize("policy", ["ours", "default"])
def test_a_burst_is_answered_and_every_change_is_a_trace_with_its_cause(policy, results, tmp_path):
    results[policy] = measured(policy, tmp_path)
    events = scale_events(tmp_path)
    results[policy]["errors"] = Counter(_read(tmp_path, "error.code"))
    print(policy, results[policy])
    told = [_words(span["name"], span["tags"], span["duration"]) for span in events]
    results[policy]["traces"] = told
    print("\n".join(told))
    if policy == "ours":
        assert results[policy]["failed"] == 0, "no request may fail in any scale event"
    grown = {span["tags"]["watchdog.service"] for span in events if span["name"].upper() == "SCALED_UP"}
    assert {name for name, most in results[policy]["most"].items() if most > 1} == grown
    causes = {span["tags"]["watchdog.cause"] for span in events}
    assert causes <= ({"serve"} if policy == "default" else {"arrivals", "queue", "trend", "in_flight", "less_load"})
    if policy == "ours":
        assert results[policy]["most"][TTS] > 1 and len(events) >= 2
        assert any(span["name"].upper() == "SCALED_DOWN" for span in events)


def test_it_waits_no_longer_and_needs_no_more_than_with_serves_default(results):
    ours, default = results["ours"], results["default"]
    assert ours["p99_s"] <= default["p99_s"]
    assert ours["replica_s"] <= default["replica_s"] * 1.05 or ours["p99_s"] <= default["p99_s"] / 2
