"""The watchdog beside a running graph: what it sees and does is in Zipkin, and the graph is well again afterwards.

A graph of its own (private Ray head, simulated engine, a second one that stands by). About four minutes on two cores.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bench.measuring.private_graph import CONFIG
from cluster import ports, ray_head
from cluster.serving import Application, Dashboard, wait_until_ready
from tests.helpers.serving import tone

pytestmark = pytest.mark.proof

TTS = "tts-service"
TIMES = {"prepare_ms": 1, "encode_ms": 1, "generate_ms": 20, "vocode_ms": 1, "seconds": 1}
QUICK = {
    "check_every_s": 1,
    "canary_every_s": 2,
    "canary_slow_s": 6,
    "canary_within_s": 8,
    "failures": 2,
    "successes": 2,
    "backoff_s": 1,
}
AT_MOST = 3  #: restarts of a service, in the hour that is the default


@dataclass(frozen=True)
class Watched:
    url: str
    zipkin: str
    dashboard: Dashboard
    fault: Path

    def replica(self) -> dict:
        [replica] = [
            one
            for one in self.dashboard.applications()["cosygraph"]["deployments"][TTS]["replicas"]
            if one["state"] == "RUNNING"
        ]
        return replica

    def post(self) -> httpx.Response:
        return httpx.post(
            f"{self.url}/api/generate",
            data={"text": "Hello", "dialect": "en-US"},
            files={"prompt_audio": ("clip.wav", tone())},
            timeout=60,
            trust_env=False,
        )

    def wait_well(self) -> int:
        """Until it answers quickly, the first engine is in use, and a canary or two have found it so; µs since the
        epoch."""
        quick = 0
        while quick < 3:
            well = self.post().elapsed.total_seconds() < 1 and self.ready()["line"] == "primary"
            quick = quick + 1 if well else 0
            time.sleep(2)
        return time.time_ns() // 1000

    def ready(self) -> dict:
        return httpx.get(f"{self.url}/ready", timeout=20, trust_env=False).json()

    def told(
        self, name: str, count: int = 1, within_s: float = 60.0, which: Callable[[dict], bool] = lambda span: True
    ) -> list[dict]:
        """The watchdog's spans of that name, the latest last, once there are `count`."""
        end = time.monotonic() + within_s
        while True:
            traces = httpx.get(
                f"{self.zipkin}/api/v2/traces",
                trust_env=False,
                params={"serviceName": "watchdog", "spanName": name.lower(), "limit": 100},
            ).json()
            spans = sorted((span for trace in traces for span in trace if which(span)), key=lambda s: s["timestamp"])
            if len(spans) >= count:
                return spans
            assert time.monotonic() < end, f"{name}: Zipkin has {len(spans)} and not {count}"
            time.sleep(0.5)


def ended(span: dict) -> int:
    return span["timestamp"] + span["duration"]


@pytest.fixture(scope="module")
def graph(zipkin, tmp_path_factory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    port, fault = ports.any_free(), folder / "fault"
    application = Application.read(
        CONFIG,
        port,
        {
            "engine": "simulated",
            "engine_options": TIMES | {"fault_file": str(fault)},
            "fallback": {"engine": "simulated", "engine_options": TIMES},
            "limits": {"deadline_s": 6},
            "tracing": {"zipkin_url": zipkin.url, "spool_dir": str(folder / "spool"), "sampling": {"ratio": 0.0}},
        },
        watchdog=True,
    )
    *_, watchdog = application.config["applications"]
    watchdog["args"] |= QUICK
    for deployment in application.config["applications"][0]["deployments"]:
        deployment.pop("autoscaling_config", None)
    heads = []
    try:
        head = ray_head.start(ports.any_free(), folder / "ray.log", num_cpus=8, remember=heads.append)
        dashboard = Dashboard(head)
        dashboard.deploy(application)
        for name in ("cosygraph", "watchdog"):
            dashboard.wait_until_running(name, print)
        wait_until_ready(f"http://127.0.0.1:{port}")
        watched = Watched(f"http://127.0.0.1:{port}", zipkin.url, dashboard, fault)
        watched.wait_well()  # the machine is still busy with starting everything
        yield watched
    finally:
        for head in heads:
            head.stop(keep_logs_in=folder / "logs", grace_s=1.0)


def test_a_replica_that_dies_is_told_with_its_cause_and_its_duration(graph):
    before = graph.replica()
    os.kill(before["pid"], signal.SIGKILL)
    [span] = graph.told("REPLICA_REPLACED", which=lambda span: span["tags"]["replica.id"] == before["replica_id"])
    assert (span["tags"]["watchdog.service"], span["tags"]["watchdog.cause"]) == (TTS, "died")
    assert 0.2e6 < span["duration"] < 90e6
    assert span["tags"]["sampling.reason"] == "watchdog" and span["localEndpoint"]["serviceName"] == "watchdog"
    wait_until_ready(graph.url)


def test_an_engine_that_fails_loses_its_traffic_is_restarted_and_gets_it_back(graph):
    began, before = graph.wait_well(), graph.replica()

    def since(span: dict) -> bool:
        return span["timestamp"] > began

    graph.fault.write_text(f"raise {before['pid']}")
    failed = graph.told("CHECK_FAILED", 2, which=since)
    assert failed[0]["tags"]["error.type"] == failed[0]["tags"]["watchdog.cause"] == "canary_failed"
    assert failed[0]["tags"]["watchdog.service"] == TTS and [
        span["tags"]["watchdog.failures"] for span in failed[:2]
    ] == ["1", "2"]
    canary = httpx.get(f"{graph.zipkin}/api/v2/trace/{failed[0]['tags']['canary.trace_id']}", trust_env=False).json()
    assert any(span["name"] == "generate_mel" and "error" in span["tags"] for span in canary), "the canary's own trace"
    away = graph.told("TRAFFIC_SWITCHED", which=since)[0]
    assert (away["tags"]["watchdog.line"], away["tags"]["watchdog.cause"]) == ("fallback", "canary_failed")
    answer = graph.post()
    assert answer.status_code == 200, "the other engine answers meanwhile"
    restarted = graph.told("REPLICA_RESTARTED", which=since)[0]
    assert restarted["tags"]["replica.id"] == before["replica_id"] and restarted["tags"]["watchdog.service"] == TTS
    assert graph.replica()["pid"] != before["pid"]
    back = graph.told("TRAFFIC_SWITCHED", 2, which=lambda span: span["timestamp"] >= away["timestamp"])[1]
    assert (back["tags"]["watchdog.line"], back["tags"]["watchdog.cause"]) == ("primary", "recovered")
    assert graph.ready()["line"] == "primary"
    graph.fault.unlink()
    replaced = [span["tags"]["replica.id"] for span in graph.told("REPLICA_REPLACED", 0)]
    assert before["replica_id"] not in replaced, "a restart of its own is told once"


def test_an_ingress_that_dies_is_unreachable_and_nothing_is_restarted_while_serve_replaces_it(graph):
    graph.wait_well()
    (ingress,) = graph.dashboard.applications()["cosygraph"]["deployments"]["cosyvoice3-api"]["replicas"]
    restarts = len(graph.told("REPLICA_RESTARTED", 0))
    os.kill(ingress["pid"], signal.SIGKILL)
    graph.told("REPLICA_REPLACED", which=lambda span: span["tags"]["watchdog.service"] == "cosyvoice3-api")
    wait_until_ready(graph.url)
    assert graph.post().status_code == 200
    assert len(graph.told("REPLICA_RESTARTED", 0)) == restarts


def test_an_engine_that_goes_on_failing_is_restarted_no_oftener_than_the_budget_allows(graph):
    """Whichever process runs is ill, so that no restart helps."""
    began, ill, quiet_until = graph.wait_well(), 0, None
    end = time.monotonic() + 180

    def since(span: dict) -> bool:
        return span["timestamp"] > began and span["tags"]["watchdog.service"] == TTS

    while quiet_until is None or time.monotonic() < quiet_until:
        assert time.monotonic() < end, "no restart was withheld"
        with suppress(ValueError):  # none runs at the moment
            if (pid := graph.replica()["pid"]) != ill:
                ill = pid
                graph.fault.write_text(f"raise {ill}")
        if (
            quiet_until is None
            and len(ours := graph.told("REPLICA_RESTARTED", 0)) >= AT_MOST
            and graph.told("RESTART_WITHHELD", 0, which=lambda span: since(span) and ended(span) > ended(ours[-1]))
        ):
            quiet_until = time.monotonic() + 15  # many more checks that fail
        time.sleep(0.3)
    graph.fault.unlink()
    restarted = [span for span in graph.told("REPLICA_RESTARTED") if span["tags"]["watchdog.service"] == TTS]
    withheld = graph.told("RESTART_WITHHELD", which=since)
    late = [span for span in graph.told("CHECK_FAILED", which=since) if ended(span) > ended(withheld[-1])]
    print(f"{len(restarted)} restarts, {len(withheld)} withheld, {len(late)} failed checks after the last of them")
    assert len(restarted) == AT_MOST, "with the one of the test before"
    assert len([span for span in withheld if ended(span) > ended(restarted[-1])]) == 1, "told once, not at each check"
    assert len(late) >= 4
    graph.wait_well()
