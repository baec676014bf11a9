"""Three Ray nodes with replicas, watched: metrics and dashboards by node, voices at S3, and two nodes that are lost.

The engine is the simulated one. A stand-in for Zipkin takes the spans, and refuses them when it is told to. Voices lie
in a stand-in for S3. Prometheus is real, and reads the file of targets that Ray's head writes.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import yaml

from bench.measuring.clips import clip
from bench.measuring.load import Sample, closed_loop, multipart
from bench.measuring.private_monitoring import private_monitoring
from cluster import node_environment
from cluster.grafana.boards import NODES
from cluster.monitoring import Thresholds, check, healthy
from cluster.processes import Started
from cluster.ray_head import RayHead
from tests.drills.alerts import Alerts
from tests.helpers.fake_zipkin import FakeZipkin, fake_zipkin
from tests.helpers.nodes import RayCluster, RayNode, ray_nodes
from tests.helpers.s3_server import CREDENTIALS, s3_server
from tests.helpers.simulated_config import simulated_config

pytestmark = [pytest.mark.drill, pytest.mark.in_order]

ENGINE = {"prepare_ms": 2, "encode_ms": 6, "generate_ms": 22, "vocode_ms": 6, "seconds": 1}
WATCHDOG = {"check_every_s": 1, "canary_every_s": 5, "failures": 10}
SERVICES = ("cosyvoice3-api", "audio-service", "embedding-service", "tts-service", "vocoder-service", "watchdog")
WINDOW_S = 60
T = TypeVar("T")


@dataclass(frozen=True)
class Watched:
    nodes: RayCluster
    zipkin: FakeZipkin
    alerts: Alerts
    prometheus: str  #: its URL

    def alert(self, name: str, label: str, node: RayNode) -> dict[str, str] | None:
        """Return the annotations of a firing alert that names the node by this label."""
        found = httpx.get(f"{self.prometheus}/api/v1/alerts", timeout=20, trust_env=False).json()["data"]["alerts"]
        wanted = {"alertname": name, label: node.address}
        return next(
            (
                one["annotations"]
                for one in found
                if one["state"] == "firing" and wanted.items() <= one["labels"].items()
            ),
            None,
        )

    def with_ingress(self) -> list[RayNode]:
        """Return the nodes with an ingress. Serve's proxy on such a node prefers it."""
        addresses = self.nodes.replicas("cosyvoice3-api")
        return [node for node in self.nodes.workers if node.address in addresses]

    def spans(self, name: str) -> list[dict]:
        return [span for span in self.zipkin.spans if span["name"] == name]


def until(find: Callable[[], T | None], what: str, within_s: float = 150) -> T:
    end = time.monotonic() + within_s
    while not (found := find()):
        assert time.monotonic() < end, f"{what}: not within {within_s:.0f} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    check()
    folder = Path(tempfile.mkdtemp(prefix="cgw", dir="/tmp"))
    try:
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config(None, {})))  # what Serve's proxies need to know
        with ray_nodes(3, folder, node_environment.variables(file) | CREDENTIALS) as nodes:
            bridge = nodes.head.address.rpartition(".")[0] + ".1"
            targets = RayHead(Started("ray", 0, 0, "", ""), 6379, 8265, str(folder / "0" / "ray"))
            thresholds = Thresholds(window_s=WINDOW_S, hold_s=5, every_s=2)
            with (
                fake_zipkin(bridge) as zipkin,
                s3_server(bridge) as s3,
                private_monitoring(targets, None, thresholds) as servers,
            ):
                nodes.deploy(config(zipkin.url, s3.settings("voices")))
                for node in nodes.workers:
                    until(partial(healthy, f"http://{node.address}:8000", "/-/healthz"), "a proxy on each node")
                url = servers["prometheus"].url
                yield Watched(nodes, zipkin, Alerts(url), url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def config(zipkin_url: str | None, voices: dict) -> dict:
    """The config. Traces wait in memory: the nodes have one file system, so a spool folder would be shared."""
    tracing = {"zipkin_url": zipkin_url, "sampling": {"ratio": 1.0}, "retry_most_s": 1}
    found = simulated_config(ENGINE, tracing, voices)
    graph, watchdog = found["applications"]
    watchdog["args"] |= WATCHDOG | {"tracing": {"zipkin_url": zipkin_url, "retry_most_s": 1}}
    del watchdog["args"]["canary_key_file"]
    for deployment in graph["deployments"]:
        if deployment["name"] == "cosyvoice3-api":
            deployment["max_replicas_per_node"] = 1  # two of three nodes have one, until one of them is lost
            deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    return found


def ask(node: RayNode, count: int = 20, clients: int = 2) -> list[Sample]:
    request = multipart(f"{node.address}:8000", {"text": "Hello there", "dialect": "en-US"}, clip(4))
    return asyncio.run(closed_loop(node.address, 8000, request, clients=clients, count=count))


def post(node: RayNode, path: str, fields: dict[str, str], files: dict | None = None) -> httpx.Response:
    address = f"http://{node.address}:8000{path}"
    return httpx.post(address, data=fields, files=files, timeout=60, trust_env=False)


def root_of(watched: Watched, answer: httpx.Response) -> str:
    """Return the address of the node whose ingress answered."""

    def find() -> list[dict]:
        spans = list(watched.zipkin.spans)
        return [
            span
            for span in spans
            if span["traceId"] == answer.headers["x-trace-id"] and span["name"].startswith("POST ")
        ]

    [span] = until(find, "a trace")
    return span["localEndpoint"]["ipv4"]


def test_metrics_and_panels_tell_nodes_apart(watched: Watched):
    addresses = {node.address for node in watched.nodes.nodes}
    ingresses = watched.with_ingress()
    with_ingress = {node.address for node in ingresses}
    alerts = watched.alerts
    until(lambda: alerts.ask('sum by (node) (up{job="ray"} == 1)').keys() == {(one,) for one in addresses}, "targets")

    def counted() -> bool:
        for node in ingresses:
            assert {sample.status for sample in ask(node)} == {200}
        rates = alerts.ask(f'sum by (node) (rate(ray_cosygraph_requests_total{{mode="fast"}}[{WINDOW_S}s])) > 0')
        return rates.keys() == {(one,) for one in with_ingress}

    until(counted, "requests of every node")
    empty = []
    for panel in NODES.panels:
        for query in panel.queries.values():
            of = {
                node: alerts.ask(
                    query.replace("$node", node).replace("$application", ".*").replace("$__rate_interval", "60s")
                )
                for node in with_ingress
            }
            if not (panel.device or all(of.values())):
                empty.append((panel.title, query, of))
    assert not empty


def test_a_voice_that_one_nodes_ingress_stores_is_spoken_by_anothers(watched: Watched):
    first, second = watched.with_ingress()
    about = {"name": "anna", "dialect": "en-US", "consent": "Agreed for tests."}
    stored = post(first, "/v1/audio/voices", about, {"audio_sample": ("v.wav", clip(5))})
    assert stored.status_code == 201, stored.text
    assert root_of(watched, stored) == first.address
    spoken = post(second, "/api/generate", {"text": "Hello", "dialect": "en-US", "voice": "anna"})
    assert spoken.status_code == 200, spoken.text
    assert root_of(watched, spoken) == second.address
    again = post(second, "/v1/audio/voices", about, {"audio_sample": ("v.wav", clip(6))})
    assert again.status_code == 409 and again.json()["error"]["code"] == "voice_name_taken"


def test_a_lost_node_is_an_event_and_an_alert_and_what_waited_there_is_counted(watched: Watched):
    [home] = watched.nodes.replicas("watchdog")
    lost = next(node for node in watched.with_ingress() if node.address != home)
    waited = keep_traces_waiting(watched, lost)
    began = lose(watched, lost)
    watched.zipkin.down = False
    traces = until(lambda: watched.alert("TracesLost", "node", lost), "TracesLost")
    assert traces["value"] == f"{waited:.0f} lost" and lost.address in traces["summary"]
    loss, restored = events(watched, lost)
    assert loss["tags"]["watchdog.cause"] == "silent" and "error" in loss["tags"]
    assert began - 6e6 < loss["timestamp"] < began + 3e6, "it took its last connection just before it died"
    assert loss["duration"] < 30e6 and restored[0]["timestamp"] == loss["timestamp"]
    seconds = [span["duration"] / 1e6 for span in (loss, *restored)]
    print(f"noticed {seconds[0]:.1f} s after it was last seen, made up for after {seconds[1]:.1f} s")
    nodes = {node.address for node in watched.nodes.workers} - {lost.address}
    assert set(watched.nodes.replicas("tts-service")) <= nodes


def test_the_watchdogs_own_node_is_reported_by_its_successor(watched: Watched):
    [home] = watched.nodes.replicas("watchdog")
    lost = next(node for node in watched.nodes.workers if node.address == home)
    began = lose(watched, lost)
    loss, _ = events(watched, lost, restored=False)
    print(f"the watchdog moved and told {(loss['timestamp'] + loss['duration'] - began) / 1e6:.1f} s after the death")
    assert began - 3e6 < loss["timestamp"] < began + 30e6


def keep_traces_waiting(watched: Watched, node: RayNode) -> float:
    """Let traces wait at a node with an ingress, until its alert can count them. Returns how many."""
    waiting = f'sum(ray_cosygraph_traces_waiting{{node="{node.address}"}})'
    watched.zipkin.down = True
    ask(node, 30)
    until(lambda: watched.alerts.ask(f"{waiting} >= 30"), "traces that wait")
    time.sleep(16)  # the rule's subquery looks every 15 s
    return sum(watched.alerts.ask(waiting).values())


def lose(watched: Watched, node: RayNode) -> float:
    """Kill a node and wait for its alert, which names its stages. Returns the moment of death in µs since the epoch."""
    had = {service for service in SERVICES if node.address in watched.nodes.replicas(service)}
    killed_us = time.time_ns() / 1000
    node.kill()
    loss = until(lambda: watched.alert("NodeLost", "lost_node", node), "NodeLost")
    assert had and all(service in loss["stage"] for service in had)
    print(f"{loss['summary']} ({loss['stage']}), {time.time() - killed_us / 1e6:.0f} s after it died")
    return killed_us


def events(watched: Watched, node: RayNode, restored: bool = True) -> tuple[dict, list[dict]]:
    """Wait for the watchdog's spans about a node."""

    def about(name: str) -> list[dict]:
        return [span for span in watched.spans(name) if span["tags"]["watchdog.node.address"] == node.address]

    [loss] = until(lambda: about("NODE_LOST"), "NODE_LOST")
    return loss, until(lambda: about("CAPACITY_RESTORED"), "CAPACITY_RESTORED") if restored else []
