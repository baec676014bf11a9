"""A graph that scales, on a private Ray: the cluster's config with the simulated engine and one of two policies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.measuring.clips import clip
from cluster import node_environment, ports, ray_head
from cluster.application import SCALING
from cluster.ray_head import RayHead
from cluster.serving import Application, Dashboard, wait_until_ready

ENGINE = {"prepare_ms": 5, "encode_ms": 5, "generate_ms": 300, "batch_slope": 0.33, "vocode_ms": 20, "seconds": 1}
TTS = "tts-service"
MOST = {"cosyvoice3-api": 2, "audio-service": 2, "embedding-service": 2, TTS: 5, "vocoder-service": 2}
WAIT_S = 0.4
SAMPLE_S = 0.5


def config(policy: str, folder: Path, port: int, **settings: Any) -> Application:
    """Return the cluster's config with the simulated engine and one replica at least.

    Args:
        policy: ours, or default for Serve's.
        folder: for spans and spools.
        port: of the API.
        settings: of our policy, beside WAIT_S.
    """
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
        kwargs = {"wait_s": WAIT_S, "hold_s": 30} | settings
        graph["autoscaling_policy"] = {"policy_function": SCALING, "policy_kwargs": kwargs}
    return application


@dataclass(frozen=True)
class ScaledGraph:
    port: int
    head: RayHead
    dashboard: Dashboard

    def speak(self, voice: bytes) -> httpx.Response:
        """Send one request with this clip."""
        return httpx.post(
            f"http://127.0.0.1:{self.port}/api/generate",
            data={"text": "Hello", "dialect": "en-US"},
            files={"prompt_audio": ("clip.wav", voice)},
            timeout=60,
            trust_env=False,
        )

    def ready(self) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}/ready", timeout=10, trust_env=False)

    def replicas(self) -> dict[str, int]:
        """Return the replicas that are there by service, running or not; nothing while Serve does not answer."""
        deployments = self.dashboard.applications().get("cosygraph", {}).get("deployments", {})
        return {name: len(one["replicas"]) for name, one in deployments.items()}


@contextmanager
def scaled_graph(application: Application, folder: Path, port: int) -> Iterator[ScaledGraph]:
    """Run the config on a Ray head of its own, warmed up."""
    heads: list[RayHead] = []
    try:
        head = ray_head.start(ports.any_free(), folder / "ray.log", num_cpus=8, num_gpus=8, remember=heads.append)
        graph = ScaledGraph(port, head, Dashboard(head))
        graph.dashboard.deploy(application)
        for name in ("cosygraph", "watchdog"):
            graph.dashboard.wait_until_running(name, print)
        wait_until_ready(f"http://127.0.0.1:{port}")
        for _ in range(5):
            graph.speak(clip(4)).raise_for_status()
        yield graph
    finally:
        for head in heads:
            head.stop(keep_logs_in=folder / "logs", grace_s=1.0)


class ReplicaSeconds(threading.Thread):
    """Counts the replicas that are there, running or not, until it is told to stop.

    Attributes:
        seconds: of all replicas together.
        history: seconds since its start, and replicas by service.
    """

    def __init__(self, graph: ScaledGraph) -> None:
        super().__init__(daemon=True)
        self._graph = graph
        self._over = threading.Event()
        self.began = time.monotonic()
        self.seconds = 0.0
        self.history: list[tuple[float, dict[str, int]]] = []

    def run(self) -> None:
        before = self.began
        while not self._over.wait(SAMPLE_S):
            counts = self._graph.replicas()
            now = time.monotonic()
            if counts:
                self.seconds += sum(counts.values()) * (now - before)
                before = now
                self.history.append((round(now - self.began, 1), {name: counts[name] for name in MOST}))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def turns(self, service: str = TTS) -> list[tuple[float, int]]:
        """Return each change of a service's replicas."""
        found: list[tuple[float, int]] = []
        for at, counts in self.history:
            if not found or found[-1][1] != counts[service]:
                found.append((at, counts[service]))
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


def in_words(event: dict[str, Any]) -> str:
    """Return one scale event as a line."""
    tags = event["tags"]
    change = f"{tags['scaling.from']}-{tags['scaling.to']}"
    return (
        f"{event['name']} {tags['watchdog.service']} {change} {tags['watchdog.cause']} {event['duration'] / 1e6:.1f} s"
    )
