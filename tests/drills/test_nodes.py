"""The graph on two Ray nodes beside the head, deployed by Serve alone: who answers, and what a lost node costs.

The engine is the simulated one. Traces go to a file, because nothing here is about Zipkin.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from bench.measuring.clips import clip
from bench.measuring.load import Sample, closed_loop, multipart
from cluster import node_environment
from tests.helpers.nodes import ray_nodes
from tests.helpers.simulated_config import simulated_graph

pytestmark = [pytest.mark.drill, pytest.mark.in_order]

ENGINE = {"prepare_ms": 2, "encode_ms": 6, "generate_ms": 22, "vocode_ms": 6, "seconds": 10}
DEADLINE_S = 20
REQUESTS = 2000  #: about a minute at four in flight
SLOW_MS = 2000.0  #: a request takes 60 ms
ROOT_SPAN = "POST /api/generate"
STAGES = ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")


@pytest.fixture(scope="module")
def folder():
    path = Path(tempfile.mkdtemp(prefix="cgn", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(folder):
    tracing = {"spans_file": str(folder / "spans.jsonl"), "sampling": {"ratio": 1.0}}
    config = simulated_graph(ENGINE, tracing)
    [graph] = config["applications"]
    graph["args"]["limits"]["deadline_s"] = DEADLINE_S
    for deployment in graph["deployments"]:
        if deployment["name"] == "audio-service":  # one alone, so that the other node must fetch its arrays
            deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with ray_nodes(2, folder, node_environment.variables(file)) as nodes:
        nodes.deploy(config)
        yield nodes


def ask(address: str, clients: int, count: int) -> list[Sample]:
    request = multipart(f"{address}:8000", {"text": "Hello there", "dialect": "en-US"}, clip())
    return asyncio.run(closed_loop(address, 8000, request, clients=clients, count=count))


def traces(folder: Path, samples: list[Sample]) -> dict[str, dict[str, dict]]:
    """The spans of each answered request, by trace and name."""
    wanted = {sample.trace_id for sample in samples}
    end = time.monotonic() + 30
    while True:
        lines = (folder / "spans.jsonl").read_text().splitlines()
        found = {t[0]["traceId"]: {span["name"]: span for span in t} for t in map(json.loads, lines)}
        if wanted <= set(found) or time.monotonic() > end:
            return {trace_id: found[trace_id] for trace_id in wanted if trace_id in found}
        time.sleep(0.5)


def where(span: dict) -> str:
    return span["localEndpoint"]["ipv4"]


def test_both_proxies_answer_and_arrays_go_from_node_to_node(cluster, folder):
    first, second = (node.address for node in cluster.workers)
    for service in ("cosyvoice3-api", "embedding-service", "tts-service", "vocoder-service"):
        assert sorted(cluster.replicas(service)) == [first, second], service
    [audio] = cluster.replicas("audio-service")
    samples = {address: ask(address, 2, 40) for address in (first, second)}
    assert all(sample.status == 200 for every in samples.values() for sample in every)
    found = traces(folder, [sample for every in samples.values() for sample in every])
    assert len(found) == 80
    hops = Counter()
    for spans in found.values():
        assert set(spans) == {ROOT_SPAN, *STAGES}
        assert where(spans["PREPROCESS_AUDIO"]) == audio
        assert spans["PREPROCESS_AUDIO"]["tags"]["node.id"] != "" and len(spans[ROOT_SPAN]["tags"]["node.id"]) == 56
        hops["crossed" if where(spans["EXTRACT_SPEAKER"]) != audio else "local"] += 1
    assert hops["crossed"] > 10, f"arrays of audio-service were fetched by the other node: {hops}"


def test_an_ingress_prefers_replicas_on_its_own_node(cluster, folder):
    for node in cluster.workers:
        found = traces(folder, ask(node.address, 2, 40))
        stages = [where(spans[name]) == where(spans[ROOT_SPAN]) for spans in found.values() for name in STAGES[1:]]
        share = sum(stages) / len(stages)
        print(f"{node.address}: {share:.0%} of the stages ran on the ingress's node")
        assert share > 0.9


def test_a_node_that_dies_under_load_costs_few_requests_and_each_has_a_trace(cluster, folder):
    """The load comes to the head's proxy, so that half of it is on the node that dies."""
    samples = []
    load = threading.Thread(target=lambda: samples.extend(ask(cluster.head.address, 4, REQUESTS)))
    load.start()
    time.sleep(5)
    cluster.workers[1].kill()
    killed_ns = time.time_ns()
    load.join()
    failed = [sample for sample in samples if sample.status != 200]
    ill = [sample for sample in samples if sample.answered_ns > killed_ns and (sample in failed or sample.ms > SLOW_MS)]
    restored_s = max([(sample.answered_ns - killed_ns) / 1e9 for sample in ill], default=0.0)
    after = sum(sample.sent_ns > killed_ns for sample in samples)
    slowest = max(sample.ms for sample in samples)
    print(f"{len(failed)} of {len(samples)} failed ({after} were sent after the death); slowest {slowest:.0f} ms;")
    print(f"the last failed or slow one was answered {restored_s:.1f} s after the death")
    assert after >= 300 and len(failed) <= 0.01 * len(samples)
    assert slowest <= (DEADLINE_S + 1) * 1000 and restored_s <= 30
    assert all(sample.trace_id for sample in failed) and len(traces(folder, failed)) == len(failed)
    assert all(sample.status == 200 for sample in ask(cluster.head.address, 2, 20))
