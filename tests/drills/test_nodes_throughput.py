"""Throughput over three Ray nodes, where the simulated time of tts-service's device is the limit.

GENERATE_MEL sleeps for a quarter of a second for each request, one at a time, so a replica does four requests a second
and two cores are enough for all. The figures are printed (`pytest -s`) and stand in results/nodes.json.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bench.measuring.clips import clip
from bench.measuring.load import Sample, closed_loop, multipart
from bench.measuring.records import about, save
from cluster import node_environment
from cluster.monitoring import healthy
from cluster.ray_head import ROOT
from tests.helpers.nodes import RayCluster, RayNode, ray_nodes
from tests.helpers.simulated_config import simulated_graph

pytestmark = [pytest.mark.drill, pytest.mark.in_order]

RESULTS = Path(__file__).parent / "results" / "nodes.json"
GENERATE_MS = 250
ENGINE = {"prepare_ms": 1, "encode_ms": 1, "generate_ms": GENERATE_MS, "vocode_ms": 1, "seconds": 1}
STAGES = ("audio-service", "embedding-service", "tts-service", "vocoder-service")
CLIENTS = 4  #: of each replica of tts-service
SECONDS = 24
RAMP_S = 4.0  #: not counted
HAND_OVERS = 200
HAND_OVER_BYTES = 640_000


@pytest.fixture(scope="module")
def results() -> Iterator[dict]:
    found: dict = {"about": about(), "generate_ms": GENERATE_MS, "clients": CLIENTS}
    yield found
    save(RESULTS, found)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    folder = Path(tempfile.mkdtemp(prefix="cgt", dir="/tmp"))
    try:
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(config(tts=1, others=1)))
        with ray_nodes(3, folder, node_environment.variables(file)) as nodes:
            yield nodes
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def config(*, tts: int, others: int) -> dict:
    """The cluster's config with fixed numbers of replicas: one of a service on a node at most."""
    found = simulated_graph(ENGINE, {"sampling": {"ratio": 0.0}})
    for deployment in found["applications"][0]["deployments"]:
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = tts if deployment["name"] == "tts-service" else others
        deployment["max_replicas_per_node"] = 1
        if deployment["name"] == "tts-service":
            deployment["user_config"] = {"max_batch_size": 1, "batch_wait_ms": 0}
    return found


def deploy(cluster: RayCluster, alive: list[RayNode], *, tts: int) -> None:
    """Deploy so many replicas of tts-service, and one of every other service on each living node."""
    addresses, others = {node.address for node in alive}, len(alive)
    cluster.deploy(config(tts=tts, others=others))
    wanted = {service: tts if service == "tts-service" else others for service in (*STAGES, "cosyvoice3-api")}

    def runs() -> bool:
        found = {service: cluster.replicas(service) for service in wanted}
        return all(len(set(found[service]) & addresses) == len(found[service]) == wanted[service] for service in wanted)

    end = time.monotonic() + 120
    while not runs():
        assert time.monotonic() < end, cluster.applications()
        time.sleep(0.5)
    while not all(healthy(f"http://{node.address}:8000", "/-/healthz") for node in alive):
        assert time.monotonic() < end, "no proxy on each node"
        time.sleep(0.5)
    time.sleep(3)  # until every ingress knows every replica


def throughput(nodes: list[RayNode], replicas: int) -> float:
    """Return the requests a second that are answered while every client asks without a pause.

    The clients are spread over the proxies of `nodes`. The ramp at the start does not count, nor what is answered after
    the first client has run out of requests.
    """
    clients, count = CLIENTS * replicas // len(nodes), round(SECONDS * 1000 / GENERATE_MS * replicas / len(nodes))

    async def load() -> list[list[Sample]]:
        return await asyncio.gather(
            *(closed_loop(node.address, 8000, request(node), clients=clients, count=count) for node in nodes)
        )

    found = asyncio.run(load())
    assert all(sample.status == 200 for samples in found for sample in samples)
    begin = min(sample.sent_ns for samples in found for sample in samples) + RAMP_S * 1e9
    end = min(max(sample.sent_ns for sample in samples) for samples in found)
    answered = sum(begin < sample.answered_ns <= end for samples in found for sample in samples)
    return answered / ((end - begin) / 1e9)


def request(node: RayNode) -> bytes:
    return multipart(f"{node.address}:8000", {"text": "Hello there", "dialect": "en-US"}, clip(4))


def test_tts_replicas_over_nodes_add_up(cluster: RayCluster, results: dict):
    rates: list[float] = []
    for replicas in (1, 2, 3):
        deploy(cluster, cluster.workers, tts=replicas)
        throughput(cluster.workers[:1], 1)  # connections and code paths are warm
        rates.append(throughput(cluster.workers[:replicas], replicas))
    results["tts replicas, requests a second"] = {number: round(rate, 2) for number, rate in enumerate(rates, 1)}
    shares = [rate / rates[0] / number for number, rate in enumerate(rates, 1)]
    print(f"tts-service on 1, 2, 3 nodes: {', '.join(f'{rate:.2f}' for rate in rates)} req/s, linear: {shares[1:]}")
    assert min(shares) >= 0.9


def test_a_hand_over_to_another_node_costs_little_more_than_a_local_one(cluster: RayCluster, results: dict):
    maker, other = cluster.workers[:2]
    here, there = hand_overs(maker, maker), hand_overs(maker, other)
    results["hand-over of 640 kB, median ms"] = {"same node": round(here, 2), "another node": round(there, 2)}
    print(f"hand-over of {HAND_OVER_BYTES} bytes: {here:.2f} ms on the node, {there:.2f} ms to another one")
    assert there - here <= 5


MAKE = """
import pickle, sys, numpy as np
from deployments.arrays import ArrayStore
store = ArrayStore("maker", lambda: True, host=sys.argv[1])
array = np.random.default_rng(0).standard_normal(int(sys.argv[2]) // 4, np.float32)
for _ in sys.stdin:
    print(pickle.dumps(store.put(array)).hex(), flush=True)
"""
TAKE = """
import asyncio, pickle, sys, time
from deployments.arrays import ArrayStore
store = ArrayStore(sys.argv[1], lambda: True)
async def main():
    for line in sys.stdin:
        ref = pickle.loads(bytes.fromhex(line))
        began = time.perf_counter()
        float((await store.get(ref)).sum())
        print(1000 * (time.perf_counter() - began), flush=True)
asyncio.run(main())
"""


def hand_overs(maker: RayNode, taker: RayNode) -> float:
    """Return the median of the milliseconds that a process on `taker` needs to get an array and to read all of it."""
    made = python(maker, MAKE, maker.address, str(HAND_OVER_BYTES))
    took = python(taker, TAKE, "maker" if taker is maker else "taker")
    try:
        times = [float(say(took, say(made, "next"))) for _ in range(HAND_OVERS)]
    finally:
        for process in (made, took):
            process.kill()
            process.communicate()  # closes its pipes, too
    return statistics.median(times[10:])  # the first ones open files and ports


def python(node: RayNode, code: str, *args: str) -> subprocess.Popen:
    command = ["ip", "netns", "exec", node.namespace, sys.executable, "-c", code, *args]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(process: subprocess.Popen, line: str) -> str:
    """Write a line to a process and return the line that it answers."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_two_nodes_do_nearly_twice_the_work_of_one(cluster: RayCluster, results: dict):
    """Each node has a replica of every service, and gets the requests of its own proxy."""
    first, second, third = cluster.workers
    third.kill()
    deploy(cluster, [first, second], tts=2)
    both = throughput([first, second], 2)
    second.kill()
    deploy(cluster, [first], tts=1)
    one = throughput([first], 1)
    results["nodes, requests a second"] = {"1": round(one, 2), "2": round(both, 2)}
    print(f"one node {one:.2f} req/s, two {both:.2f}: {both / one:.2f} x")
    assert both / one >= 1.8
