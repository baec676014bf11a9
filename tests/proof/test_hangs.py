"""A replica that hangs is replaced within 30 s, under load, and nobody else is, however busy the machine.

A graph of its own with two replicas of tts-service, and clients that never stop. About three minutes on two cores.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest
import yaml

from cluster import ports, ray_head
from cluster.serving import Application, Dashboard, wait_until_ready
from tests.helpers.serving import CLUSTER
from tests.proof.test_failure_truth import CLIENTS, Truth, check_whole, failed, load, named, now, serves_again, settled

pytestmark = pytest.mark.drill

TTS, WITHIN_S = "tts-service", 30.0
TIMES = {"prepare_ms": 5, "encode_ms": 5, "generate_ms": 60, "vocode_ms": 20, "seconds": 2}
BUSY_S = 45.0  #: fifteen health checks
BUSY = "sum(x * x for x in iter(int, 1))"  # without end


@pytest.fixture(scope="module")
def graph(zipkin, tmp_path_factory) -> Iterator[Truth]:
    folder = tmp_path_factory.mktemp("hangs")
    tracing = {"zipkin_url": zipkin.url, "spool_dir": str(folder / "spool"), "sampling": {"ratio": 0.0}}
    entry = yaml.safe_load((CLUSTER / "serve.cpu.yaml").read_text())["applications"][0]
    for deployment in entry["deployments"]:
        deployment.pop("autoscaling_config", None)
        deployment["num_replicas"] = 2 if deployment["name"] == TTS else 1
    entry |= {
        "name": "truth",
        "args": {
            "engine": "simulated",
            "engine_options": TIMES | {"fault_file": str(folder / "fault")},
            "tracing": tracing,
        },
    }
    port = ports.any_free()
    watching = {
        "name": "watchdog",
        "route_prefix": None,
        "import_path": "watchdog.deployment:build",
        "args": {
            "api_url": f"http://127.0.0.1:{port}",
            "app_name": "truth",
            "tracing": {"zipkin_url": zipkin.url},
            "check_every_s": 1,
            "canary_every_s": 3600,
            "on_failure": "watch",
        },
    }
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [entry, watching],
    }
    heads = []
    try:
        head = ray_head.start(
            ports.any_free(),
            folder / "ray.log",
            num_cpus=8,
            remember=heads.append,
            env={"COSYGRAPH_TRACING": json.dumps(tracing)},
        )
        dashboard = Dashboard(head)
        dashboard.deploy(Application(config))
        dashboard.wait_until_running("truth", print)
        dashboard.wait_until_running("watchdog", print)
        wait_until_ready(f"http://127.0.0.1:{port}")
        yield Truth(port, zipkin.url, dashboard, config, folder / "spool")
    finally:
        for head in heads:
            head.stop(keep_logs_in=folder / "logs", grace_s=1.0)


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """An endless loop for every core."""
    hogs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count())]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


def replicas(graph: Truth) -> dict[str, int]:
    """Pid of every running replica, by its id."""
    deployments = graph.dashboard.applications()["truth"]["deployments"].values()
    return {
        replica["replica_id"]: replica["pid"]
        for deployment in deployments
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    }


def hang_and_wait(graph: Truth, hang) -> None:
    """`hang(pid)` one of two replicas of tts-service under load, and see what becomes of it and of everybody else."""
    before, count = replicas(graph), len(graph.seen)
    victim = next(
        name
        for name, replica in (
            (replica["replica_id"], replica)
            for replica in graph.dashboard.applications()["truth"]["deployments"][TTS]["replicas"]
        )
    )
    with load(graph):
        serves_again(graph, now())
        began = time.monotonic()
        hang(before[victim])
        gone = None
        while gone is None or len(replicas(graph)) < len(before):
            assert time.monotonic() - began < 90, "the replica that hangs was never replaced"
            if gone is None and not psutil.pid_exists(before[victim]):
                gone = time.monotonic() - began
            time.sleep(0.25)
        took = time.monotonic() - began
        time.sleep(15)  # five checks of everybody else
        serves_again(graph, now())
    after, seen = replicas(graph), graph.seen[count:]
    assert before.keys() - after.keys() == {victim}, "no other replica was replaced"
    wrong = {request.trace_id for request in seen if request.status != 200}
    traces = settled(graph, wrong)
    met = [
        trace
        for trace in traces.values()
        if trace[0]["traceId"] in {request.trace_id for request in seen}
        and any(failed(span) and span.get("kind") == "CLIENT" for span in trace)
    ]
    print(
        f"gone after {gone:.1f} s, replaced after {took:.1f} s; {len(seen)} requests, {len(wrong)} failed, "
        f"{len(met)} were in flight on it"
    )
    assert took <= WITHIN_S
    assert 1 <= len(met) <= CLIENTS and all(named(trace) == {TTS} for trace in met)
    assert len(wrong) <= len(met)
    for trace in met:
        check_whole(trace)
    answer = httpx.get(
        f"{graph.zipkin}/api/v2/traces",
        trust_env=False,
        params={"serviceName": "watchdog", "spanName": "replica_replaced", "limit": 100},
    )
    told = [span for trace in answer.json() for span in trace if span["tags"]["replica.id"] == victim]
    assert [(span["tags"]["watchdog.service"], span["tags"]["watchdog.cause"]) for span in told] == [(TTS, "unhealthy")]
    assert told[0]["duration"] < took * 1e6 and "error" not in told[0]["tags"]


def test_a_busy_machine_makes_nobody_look_ill(graph, busy_machine):
    before, count = replicas(graph), len(graph.seen)
    with load(graph):
        serves_again(graph, now())
        time.sleep(BUSY_S)
    seen = graph.seen[count:]
    print(f"{len(seen)} requests in {BUSY_S:.0f} s beside an endless loop for every core")
    assert replicas(graph) == before
    assert {request.status for request in seen} == {200}


def test_a_device_that_hangs(graph):
    """The process answers its health checks all the same; what does not return is the thread that computes."""
    file = graph.config["applications"][0]["args"]["engine_options"]["fault_file"]

    def hang(pid: int) -> None:
        with open(file + ".new", "w") as new:
            new.write(f"hang {pid}")
        os.rename(file + ".new", file)

    hang_and_wait(graph, hang)


def test_a_process_that_hangs(graph):
    hang_and_wait(graph, lambda pid: os.kill(pid, signal.SIGSTOP))
