"""Faults of nodes and of their network, while requests come: what each costs, and how long it takes.

Two nodes with replicas beside a head that keeps its state in a Redis, the simulated engine, traces in a file. One
cluster for all of them: each drill leaves it whole.
"""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml

from bench.measuring.clips import clip
from bench.measuring.load import Sample, closed_loop, multipart
from cluster import node_environment
from tests.helpers import wrong_clock
from tests.helpers.nodes import RayCluster, RayNode, ray_nodes
from tests.helpers.simulated_config import simulated_graph

pytestmark = [pytest.mark.drill, pytest.mark.in_order]

ENGINE = {"prepare_ms": 2, "encode_ms": 6, "generate_ms": 22, "vocode_ms": 6, "seconds": 2}
DEADLINE_S = 60  #: as in cluster/serve.cluster.yaml
CLIENTS = 4
SLOW_MS = 2000.0  #: a request takes 60 ms
LEAVING = ("PENDING_MIGRATION", "STOPPING")
ROOT_SPAN = "POST /api/generate"
SERVICES = ("cosyvoice3-api", "audio-service", "embedding-service", "tts-service", "vocoder-service")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="cgf", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def config(folder) -> dict:
    tracing = {"spans_file": str(folder / "spans.jsonl"), "sampling": {"ratio": 1.0}}
    config = simulated_graph(ENGINE, tracing)
    [graph] = config["applications"]
    graph["args"]["limits"]["deadline_s"] = DEADLINE_S
    for deployment in graph["deployments"]:
        deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
        if deployment["name"] == "tts-service":
            deployment["ray_actor_options"]["num_gpus"] = 0.3
        if "max_replicas_per_node" in deployment:  # the other node has room for those of a lost one
            deployment["max_replicas_per_node"] = 2
    return config


@pytest.fixture(scope="module")
def cluster(folder, config) -> Iterator[RayCluster]:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with ray_nodes(2, folder, node_environment.variables(file), redis=True) as nodes:
        nodes.deploy(config)
        yield nodes


@dataclass
class Load:
    """Clients that ask until they are told to stop. A broken connection is an answer too: status 0."""

    addresses: list[str]
    samples: list[Sample] = field(default_factory=list)
    stopped: bool = False

    def client(self, number: int) -> None:
        address = self.addresses[number % len(self.addresses)]
        request = multipart(f"{address}:8000", {"text": "Hello there", "dialect": "en-US"}, clip())
        while not self.stopped:
            sent = time.time_ns()
            try:
                asking = closed_loop(address, 8000, request, clients=1, count=1, timeout_s=DEADLINE_S + 10)
                self.samples += asyncio.run(asking)
            except (OSError, EOFError, TimeoutError) as error:
                print(f"no answer: {type(error).__name__}")
                self.samples.append(Sample(0, "", sent, time.time_ns(), 0))
                time.sleep(0.05)

    def wait_for(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        until, goal = time.monotonic() + 100, len(self.samples) + count
        while len(self.samples) < goal:
            assert time.monotonic() < until, f"{goal - len(self.samples)} of {count} requests are not answered"
            time.sleep(0.1)


@contextmanager
def load(addresses: list[str], clients: int = CLIENTS) -> Iterator[Load]:
    found = Load(addresses)
    threads = [threading.Thread(target=found.client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.stopped = True
        for thread in threads:
            thread.join()


@dataclass(frozen=True)
class Fault:
    """Holds what a fault has cost."""

    name: str
    load: Load
    began_ns: int
    folder: Path
    detected_s: float = 0.0  #: after `began_ns`

    @property
    def failed(self) -> list[Sample]:
        return [sample for sample in self.load.samples if sample.status != 200]

    @property
    def restored_s(self) -> float:
        """When the last failed or slow request was answered."""
        ill = [s for s in self.load.samples if s.status != 200 or s.ms > SLOW_MS]
        return max([(s.answered_ns - self.began_ns) / 1e9 for s in ill if s.answered_ns > self.began_ns], default=0.0)

    def check(self, at_most: float = 0.01) -> dict[str, list[dict]]:
        """Print the row of the table, and check it; returns the traces of all answers."""
        samples, failed = self.load.samples, self.failed
        during = sum(sample.answered_ns > self.began_ns for sample in samples)
        slowest = max(sample.ms for sample in samples)
        slow = sum(sample.ms > SLOW_MS for sample in samples)
        found = traces(self.folder, {sample.trace_id for sample in samples if sample.trace_id})
        lost = [span for spans in found.values() for span in spans if is_lost(span)]
        print(
            f"\n{self.name}: {len(samples)} requests, {during} answered after the fault; {len(failed)} failed "
            f"({dict(Counter(s.status for s in failed))}); {slow} took more than {SLOW_MS / 1000:.0f} s, "
            f"the slowest {slowest / 1000:.1f} s; detected after {self.detected_s:.1f} s, the last failed or slow one "
            f"answered after {self.restored_s:.1f} s; lost calls in traces: {dict(Counter(map(lost_name, lost)))}"
        )
        assert during >= 300, "too few requests to tell"
        assert len(failed) <= at_most * len(samples)
        assert slowest <= (DEADLINE_S + 1) * 1000
        assert self.restored_s <= self.detected_s + 30
        assert all(sample.trace_id for sample in failed), "an answer without a trace"
        for sample in failed:
            root, *others = found[sample.trace_id]
            assert root["tags"].get("error.service") in SERVICES and root["tags"].get("node.id"), root
        told = {t[0]["traceId"] for t in all_traces(self.folder) if self._is_a_failure(t)}
        print(f"failures that clients saw: {len(failed)}, in traces: {len(told)}")
        assert {sample.trace_id for sample in failed} <= told
        return found

    def _is_a_failure(self, spans: list[dict]) -> bool:
        root = spans[0]
        since_us = min(sample.sent_ns for sample in self.load.samples) // 1000 - 5_000_000
        status = int(root.get("tags", {}).get("http.status_code", 200))
        return root["timestamp"] >= since_us and status != 200 and status != 499


def is_lost(span: dict) -> bool:
    """Tell whether a span speaks for a replica that did not answer."""
    return span.get("kind") != "SERVER" and "error" in span.get("tags", {})


def lost_name(span: dict) -> str:
    return f"{span['name']} on {span['tags'].get('error.node', '?')[:6]}"


def all_traces(folder: Path) -> list[list[dict]]:
    return [json.loads(line) for line in (folder / "spans.jsonl").read_text().splitlines()]


def traces(folder: Path, wanted: set[str]) -> dict[str, list[dict]]:
    """Each trace with its root first. They are written a moment after the answers."""
    end = time.monotonic() + 20
    while True:
        found = {}
        for spans in all_traces(folder):
            ids = {span["id"] for span in spans}
            found[spans[0]["traceId"]] = sorted(spans, key=lambda span: span.get("parentId") in ids)
        if wanted <= set(found) or time.monotonic() > end:
            return {trace_id: found[trace_id] for trace_id in wanted if trace_id in found}
        time.sleep(0.5)


def replicas(cluster: RayCluster, states: tuple[str, ...] = ("RUNNING",)) -> dict[str, str]:
    """The address of each running replica, by its id."""
    return {
        replica["replica_id"]: replica["node_ip"]
        for one in cluster.applications()["applications"].values()
        for deployment in one["deployments"].values()
        for replica in deployment["replicas"]
        if replica["state"] in states
    }


def seconds_until(happened: Callable[[], bool], within_s: float = 90) -> float:
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < within_s, f"nothing happened within {within_s} s"
        time.sleep(0.5)
    return time.monotonic() - began


def back(cluster: RayCluster, config: dict, node: RayNode, more: dict[str, str] | None = None) -> None:
    """Start a node again and have replicas on it."""
    node.kill()
    cluster.start(node, more)
    spread(cluster, config, node)


def spread(cluster: RayCluster, config: dict, node: RayNode) -> None:
    """Have a share of the replicas on a node. Serve moves none that runs: so half of them are made anew."""
    for _ in range(3):
        if has_its_share(cluster, node):
            return
        halved = copy.deepcopy(config)
        for deployment in halved["applications"][0]["deployments"]:
            deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1, "downscale_delay_s": 0}
        cluster.deploy(halved)
        seconds_until(lambda: len(replicas(cluster)) == len(SERVICES), 120)
        cluster.deploy(config)
        seconds_until(lambda: len(replicas(cluster)) == 2 * len(SERVICES), 120)
    assert has_its_share(cluster, node), f"Serve puts no share of them on the node: {replicas(cluster)}"


def has_its_share(cluster: RayCluster, node: RayNode) -> bool:
    """Tell whether a fault of a node will be felt: it has an ingress, and stages."""
    on_it = list(replicas(cluster).values()).count(node.address)
    return node.address in cluster.replicas("cosyvoice3-api") and 3 <= on_it < 2 * len(SERVICES)


def test_a_change_of_config_and_of_code_under_load(cluster, config, folder):
    head = cluster.head.address
    with load([head]) as requests:
        requests.wait_for(40)
        began = time.time_ns()
        before = replicas(cluster)
        live = copy.deepcopy(config)
        for deployment in live["applications"][0]["deployments"]:
            if deployment["name"] == "tts-service":
                deployment["user_config"]["batch_wait_ms"] = 100
        cluster.deploy(live)
        assert replicas(cluster).keys() == before.keys(), "live settings replace no replica"
        requests.wait_for(100)
        code = copy.deepcopy(live)
        code["applications"][0]["runtime_env"] = {"env_vars": {"COSYGRAPH_DRILL": "another version"}}
        cluster.deploy(code)
        took_s = (time.time_ns() - began) / 1e9
        assert not replicas(cluster).keys() & before.keys(), "another version replaces every replica"
        requests.wait_for(300)
    print(f"rolled out after {took_s:.0f} s")
    Fault("config, then code", requests, began, folder).check(at_most=0.0)
    cluster.deploy(config)


def test_a_slow_link_that_loses_packets(cluster, config, folder):
    """The clip and the answer cross it in about half of the requests."""
    spread(cluster, config, cluster.workers[1])
    with load([cluster.head.address]) as requests:
        requests.wait_for(40)
        began = time.time_ns()
        with cluster.workers[1].slow_link(delay_ms=25, loss=0.02):
            requests.wait_for(300)
        requests.wait_for(40)
    Fault("50 ms there and back, 2 % lost each way", requests, began, folder, detected_s=100).check()


def test_a_node_without_its_network(cluster, config, folder):
    lost = cluster.workers[1]
    spread(cluster, config, lost)
    print(f"on it: {[service for service in SERVICES for at in cluster.replicas(service) if at == lost.address]}")
    with load([cluster.head.address]) as requests:
        requests.wait_for(100)
        began = time.time_ns()
        lost.cut()
        serve_s = seconds_until(lambda: lost.address not in replicas(cluster).values())
        ray_s = serve_s + seconds_until(lambda: cluster.ray_nodes()[lost.address].get("state") != "ALIVE", 120)
        requests.wait_for(300)
        lost.mend()
        requests.wait_for(100)
    print(f"Serve gave up its replicas after {serve_s:.1f} s, Ray the node after {ray_s:.1f} s")
    Fault("a node without its network", requests, began, folder, detected_s=serve_s).check()


def test_a_node_without_its_network_that_had_every_replica(cluster, config, folder):
    """As after another node's loss: Serve moves no replica back, so the node that is left has all of them."""
    other, lost = cluster.workers
    back(cluster, config, lost)
    other.kill()
    seconds_until(lambda: set(replicas(cluster).values()) == {lost.address}, 120)
    seconds_until(lambda: len(replicas(cluster)) == 2 * len(SERVICES), 120)
    cluster.start(other)
    with load([cluster.head.address]) as requests:
        requests.wait_for(100)
        state = cluster.ray_nodes()[lost.address].get("state")
        assert state == "ALIVE", f"before the cut it is {state}"
        began = time.time_ns()
        lost.cut()
        ray_s = seconds_until(lambda: cluster.ray_nodes()[lost.address].get("state") != "ALIVE", 120)
        new_s = ray_s + seconds_until(lambda: set(replicas(cluster).values()) == {other.address}, 120)
        requests.wait_for(300)
        lost.mend()
        requests.wait_for(100)
    print(f"Ray gave up the node after {ray_s:.1f} s, and new replicas ran on the other one after {new_s:.1f} s")
    Fault("a node with every replica, without its network", requests, began, folder, detected_s=ray_s).check()


def test_a_clock_that_is_three_seconds_ahead(cluster, config, folder):
    ahead = cluster.workers[1]
    back(cluster, config, ahead, {"LD_PRELOAD": str(wrong_clock.library(folder, ahead_s=3))})
    began = time.time_ns()
    with load([cluster.head.address]) as requests:
        requests.wait_for(400)
    found = Fault("a clock 3 s ahead", requests, began, folder, detected_s=100).check()
    tagged, untagged, waits = [], 0, []
    for spans in found.values():
        root = next(span for span in spans if span["name"] == ROOT_SPAN)
        for span in spans:
            if span is root or span["localEndpoint"]["ipv4"] == root["localEndpoint"]["ipv4"]:
                continue
            skew_ms = span["tags"].get("clock.skew_ms")
            if skew_ms is None:
                untagged += 1
                continue
            expected = 3000 if span["localEndpoint"]["ipv4"] == ahead.address else -3000
            tagged.append(abs(float(skew_ms) - expected))
            waits.append(float(span["tags"]["queue.wait_ms"]))
            early_ms = (root["timestamp"] - span["timestamp"]) / 1000
            assert early_ms <= max(0.0, -float(skew_ms)) + 0.1, "shown before its parent by more than the skew"
    print(f"{len(tagged)} spans tagged, {untagged} not; the tag is wrong by at most {max(tagged):.1f} ms;")
    print(f"queue.wait_ms on the other clock: {sorted(waits)[len(waits) // 2]:.1f} ms in the middle")
    assert len(tagged) >= 50 and untagged == 0


def test_a_node_that_is_drained(cluster, config, folder):
    drained = cluster.workers[1]
    back(cluster, config, drained)
    with load([cluster.head.address]) as requests:
        requests.wait_for(100)
        began = time.time_ns()
        node_id = cluster.ray_nodes()[drained.address]["nodeId"]
        words = ["drain-node", f"--address={cluster.head.address}:6379", f"--node-id={node_id}"]
        words += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=drill", "--deadline-remaining-seconds=60"]
        subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words], check=True, timeout=60)
        moved_s = seconds_until(lambda: drained.address not in replicas(cluster, ("RUNNING", *LEAVING)).values(), 120)
        requests.wait_for(100)
        drained.kill()  # as its owner does by then
        requests.wait_for(200)
    print(f"its replicas were gone {moved_s:.1f} s after the command")
    Fault("a node drained", requests, began, folder, detected_s=moved_s).check(at_most=0.0)


def test_the_head_lost_and_back(cluster, config, folder):
    back(cluster, config, cluster.workers[1])
    before = replicas(cluster)
    with load([node.address for node in cluster.workers]) as requests:
        requests.wait_for(100)
        began = time.time_ns()
        cluster.head.kill()
        time.sleep(15)
        requests.wait_for(200)
        away_s = (time.time_ns() - began) / 1e9
        cluster.start(cluster.head)
        seconds_until(lambda: answers(cluster), 120)
        cluster.wait_running()
        back_s = (time.time_ns() - began) / 1e9
        requests.wait_for(200)
    after = replicas(cluster)
    print(f"away for {away_s:.0f} s, Serve's controller answers {back_s - away_s:.0f} s after the new head's start;")
    print(f"{len(before.keys() & after.keys())} of {len(before)} replicas are the same ones")
    Fault("the head lost, and back", requests, began, folder, detected_s=0.0).check()
    assert before.keys() == after.keys()
    with load([cluster.head.address]) as requests:
        requests.wait_for(40)
    assert all(sample.status == 200 for sample in requests.samples), "the new head has a proxy"


def answers(cluster: RayCluster) -> bool:
    try:
        return bool(cluster.applications().get("applications"))
    except (httpx.HTTPError, ValueError):
        return False
