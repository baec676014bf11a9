"""The doctor over a real graph, Zipkin, Prometheus and Serve: it finds batches of one and 8 kHz, and mends the former.

A graph of its own, simulated engine: what a batch costs is stated below (8 members take 1.7 times as long as one).
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from bench.measuring.load import Sample, closed_loop, multipart, percentile
from bench.measuring.private_graph import PrivateGraph, private_graph
from cluster import cli, monitoring, ports
from cluster.cli_error import CliError
from cluster.doctor.serve_reader import ServeReader
from cluster.monitoring import Monitoring, Server, Thresholds
from cluster.state import State, StateFile, boot_id
from cluster.zipkin import Zipkin
from tests.helpers.keeping import eventually
from tests.helpers.serving import tone

pytestmark = pytest.mark.proof

TIMES = {"prepare_ms": 2, "encode_ms": 4, "generate_ms": 120, "vocode_ms": 4, "batch_slope": 0.1, "seconds": 2}
COUNTED_S = 8.0  #: Ray's agent is told and scraped every two seconds
CLIENTS, REQUESTS, NARROW = 8, 80, 16
BATCHES = {"max_batch_size": 8, "batch_wait_ms": 200}


@dataclass
class Stack:
    graph: PrivateGraph
    zipkin: str
    run_dir: Path
    began: float = 0.0  #: of what the doctor is asked about

    def send(self, rate: int, count: int) -> list[Sample]:
        request = multipart(f"127.0.0.1:{self.graph.port}", {"text": "Hello", "dialect": "en-US"}, tone(rate=rate))
        return asyncio.run(closed_loop("127.0.0.1", self.graph.port, request, clients=CLIENTS, count=count))

    def batches_of_one(self) -> None:
        """Set what the doctor is to find; where a test is tried again, --apply has changed it."""
        for deployment in self.graph.application.config["applications"][0]["deployments"]:
            if deployment["name"] == "tts-service":
                deployment["user_config"] = {"max_batch_size": 1, "batch_wait_ms": 0}
        self.graph.dashboard.deploy(self.graph.application)
        eventually(lambda: self.deployed()["tts-service"].max_batch_size, lambda size: size == 1)
        self.graph.dashboard.wait_until_running(self.graph.application.name, print)

    def deployed(self):
        return ServeReader(self.graph.head.dashboard_url).deployments()

    def doctor(self, capsys, *options: str) -> tuple[int, str]:
        """Exit status and what was printed."""
        capsys.readouterr()
        since = f"{math.ceil(time.time() - self.began) + 1}s"
        code = cli.main(["doctor", "--since", since, "--run-dir", str(self.run_dir), *options])
        told = capsys.readouterr()
        return code, told.out + told.err


@pytest.fixture(scope="module")
def stack(zipkin, tmp_path_factory) -> Iterator[Stack]:
    try:
        monitoring.check()
    except CliError as missing:
        pytest.skip(str(missing))
    run_dir = tmp_path_factory.mktemp("run")
    often = pytest.MonkeyPatch()
    often.setenv("RAY_metrics_report_interval_ms", "2000")
    servers: dict[str, Server] = {}
    on_terminate = signal.getsignal(signal.SIGTERM)  # private_graph has its own
    try:
        with private_graph(
            {"engine": "simulated", "engine_options": TIMES}, num_cpus=8, zipkin_url=zipkin.url
        ) as graph:
            Monitoring(run_dir / "monitoring", print, servers.__setitem__, thresholds=Thresholds(every_s=2)).start(
                graph.head, zipkin.url, ports.any_free(), ports.any_free()
            )
            StateFile(run_dir).save(
                State(
                    datetime.now().isoformat(timespec="seconds"),
                    boot_id(),
                    graph.port,
                    app=graph.application.name,
                    module=graph.application.module,
                    ready=True,
                    zipkin=Zipkin(zipkin.url),
                    ray=graph.head,
                    **servers,
                )
            )
            found = Stack(graph, zipkin.url, run_dir)
            found.batches_of_one()
            found.send(16_000, CLIENTS)  # the first are slow
            time.sleep(COUNTED_S)
            yield found
    finally:
        often.undo()
        signal.signal(signal.SIGTERM, on_terminate)
        for server in servers.values():
            server.stop()


def test_it_finds_both_and_mends_the_batches_in_the_same_processes(stack, capsys, monkeypatch):
    stack.batches_of_one()
    stack.began = time.time()
    before = stack.send(16_000, REQUESTS)
    assert {sample.status for sample in stack.send(8_000, NARROW)} == {400}
    time.sleep(COUNTED_S)

    code, text = stack.doctor(capsys, "--json")
    assert code == 3, text
    told = json.loads(text)
    assert told["sources"]["prometheus"]["requests"] == REQUESTS + NARROW
    assert told["sources"]["zipkin"]["traces"] == REQUESTS + NARROW
    [refused] = [one for one in told["findings"] if one["kind"] == "errors"]
    assert refused["severity"] == "act" and refused["summary"].startswith("100 % of the 400s are 8 kHz audio")
    assert "17 % of all requests" in refused["summary"] and refused["figures"]["share_is"] == "Prometheus's count"
    [batches] = [one for one in told["findings"] if one["kind"] == "batching"]
    assert batches["change"] == {"deployment": "tts-service", "user_config": BATCHES}
    assert "is set to 1" in batches["summary"]
    assert [one["severity"] for one in told["findings"] if one["kind"] in ("traces", "sources")] == ["fine", "fine"]
    text = stack.doctor(capsys)[1]
    with capsys.disabled():
        print(text)

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, text = stack.doctor(capsys, "--apply", "batch")
    assert code == 1 and "--yes" in text, "there is no terminal"
    assert stack.deployed()["tts-service"].max_batch_size == 1

    replicas = {name: deployment.replicas for name, deployment in stack.deployed().items()}
    code, text = stack.doctor(capsys, "--apply", "batch", "--yes")
    assert code == 0 and "Undo:" in text, text
    now = stack.deployed()
    assert now["tts-service"].user_config == BATCHES
    assert {name: deployment.replicas for name, deployment in now.items()} == replicas, "ids and pids"
    assert now["vocoder-service"].max_batch_size == 1, "nothing else changed"

    stack.began = time.time()
    after = stack.send(16_000, REQUESTS)
    time.sleep(COUNTED_S)
    code, text = stack.doctor(capsys, "--json")
    assert code == 0, text
    for share in (50, 95):
        took = [percentile([sample.ms for sample in samples], share) for samples in (before, after)]
        print(f"P{share} with batches of one {took[0]:.0f} ms, after --apply {took[1]:.0f} ms")
        if share == 50:  # four slow requests on a busy machine are the P95 of eighty
            assert took[1] < 0.6 * took[0]


def test_where_the_dashboard_and_prometheus_are_gone_it_says_so_and_goes_on(stack, capsys):
    nobody = f"http://127.0.0.1:{ports.any_free()}"
    code, text = stack.doctor(capsys, "--json", "--prometheus-url", nobody, "--dashboard-url", nobody)
    told = json.loads(text)
    assert code in (0, 3) and told["sources"]["prometheus"] is None
    [sources] = [one for one in told["findings"] if one["kind"] == "sources"]
    assert any("Prometheus" in line and "doesn't answer" in line for line in sources["detail"])
    assert any("Serve" in line and "doesn't answer" in line for line in sources["detail"])


def test_without_a_zipkin_it_says_what_to_do(stack, capsys):
    code, text = stack.doctor(capsys, "--zipkin-url", f"http://127.0.0.1:{ports.any_free()}")
    assert code == 1 and "doesn't answer" in text and "--zipkin-url" in text
