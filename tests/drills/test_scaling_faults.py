"""The scaling policy on a real Ray Serve: services are stopped while nothing needs them, and a controller dies.

The figures are printed (`pytest -s`) and stand in results/scaling_faults.json. Seven minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.measuring.clips import clip
from bench.measuring.load import Sample, arrivals, multipart, open_loop, percentile
from bench.measuring.records import about, save
from cluster import ports, processes
from tests.drills.scaled_graph import TTS, ReplicaSeconds, ScaledGraph, config, in_words, scale_events, scaled_graph
from tests.helpers.keeping import eventually

pytestmark = [pytest.mark.drill, pytest.mark.in_order]

RESULTS = Path(__file__).parent / "results" / "scaling_faults.json"
RARE = ("audio-service", "embedding-service")  #: a voice that is cached needs neither
IDLE_S = 15
STOPPED_S = 20  #: that they stay stopped, while `/ready` is asked each second


class Load(threading.Thread):
    """Sends requests with one clip, open loop, in a thread."""

    def __init__(self, port: int, parts: list[tuple[float, float]], voice: bytes) -> None:
        super().__init__(daemon=True)
        moments, begin = [], 0.0
        for number, (per_s, seconds) in enumerate(parts):
            moments += [begin + at for at in arrivals(per_s, seconds, seed=number)]
            begin += seconds
        request = multipart(f"127.0.0.1:{port}", {"text": "Hello there", "dialect": "en-US"}, voice)
        self._port, self._planned = port, [(at, request) for at in moments]
        self.samples: list[Sample] = []

    def run(self) -> None:
        self.samples = asyncio.run(open_loop("127.0.0.1", self._port, self._planned, timeout_s=600))

    def figures(self) -> dict[str, Any]:
        seconds = [sample.ms / 1000 for sample in self.samples]
        return {
            "requests": len(seconds),
            "failed": sum(sample.status != 200 for sample in self.samples),
            "p50_s": round(percentile(seconds, 50), 2),
            "p99_s": round(percentile(seconds, 99), 2),
            "longest_s": round(max(seconds), 2),
        }


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    yield found
    save(RESULTS, found)


def test_services_that_nothing_needs_are_stopped_and_start_with_the_next_request(results, tmp_path):
    port, known, new = ports.any_free(), clip(4), clip(5)
    application = config("ours", tmp_path, port, idle_s=IDLE_S, hold_s=10)
    graph_args = application.config["applications"][0]
    graph_args["args"]["voice_cache_mb"] = 64
    for deployment in graph_args["deployments"]:
        if deployment["name"] in RARE:
            deployment["autoscaling_config"] |= {"min_replicas": 0, "initial_replicas": 1}
    with scaled_graph(application, tmp_path, port) as graph:
        load = Load(port, [(2.0, 120.0)], known)
        load.start()
        began = time.monotonic()
        eventually(graph.replicas, lambda found: bool(found) and not any(found[name] for name in RARE), within_s=70)
        found = {"stopped_after_s": round(time.monotonic() - began, 1)}
        for _ in range(STOPPED_S):
            stages = graph.ready().json()["stages"]
            assert all(stages[name] for name in RARE), stages
            assert not any(graph.replicas()[name] for name in RARE), "a question must not start them"
            time.sleep(1)
        began = time.monotonic()
        assert graph.speak(new).status_code == 200
        found["first_request_s"] = round(time.monotonic() - began, 1)
        assert all(graph.replicas()[name] for name in RARE)
        began = time.monotonic()
        assert graph.speak(clip(6)).status_code == 200
        found["next_request_s"] = round(time.monotonic() - began, 1)
        load.join()
        time.sleep(5)  # for the watchdog's last look
    events = scale_events(tmp_path)
    found |= {"load": load.figures(), "traces": [in_words(event) for event in events]}
    results["stopped and started"] = about() | found
    print(found)
    assert found["load"]["failed"] == 0 and found["load"]["p99_s"] < 3
    assert found["next_request_s"] < found["first_request_s"] < 45
    down = [one["tags"] for one in events if one["name"].upper() == "SCALED_DOWN"]
    stopped = {tags["watchdog.service"]: tags["watchdog.cause"] for tags in down if tags["scaling.to"] == "0"}
    assert stopped == dict.fromkeys(RARE, "idle")
    up = [one["tags"]["watchdog.service"] for one in events if one["name"].upper() == "SCALED_UP"]
    assert [up.count(name) for name in RARE] == [1, 1], "one that has just been started is not stopped for being idle"


def controller(graph: ScaledGraph) -> int | None:
    """Return the process id of Serve's controller, if it runs."""
    for process in processes.family(graph.head.process):
        try:
            if "ServeController" in " ".join(process.cmdline()):
                return process.pid
        except psutil.Error:
            continue
    return None


def test_a_controller_that_dies_takes_no_replica_along_and_scaling_goes_on(results, tmp_path):
    port = ports.any_free()
    steady_s, after_s, more_s = 60.0, 60.0, 40.0
    with scaled_graph(config("ours", tmp_path, port), tmp_path, port) as graph:
        counted = ReplicaSeconds(graph)
        load = Load(port, [(9.0, steady_s + after_s), (18.0, more_s), (1.0, 90.0)], clip(4))
        counted.start()
        load.start()
        time.sleep(steady_s)
        before, old = graph.replicas(), controller(graph)
        assert old is not None and before[TTS] > 1, "the load needs more than one"
        killed_s = time.monotonic() - counted.began
        os.kill(old, signal.SIGKILL)
        eventually(lambda: controller(graph), lambda found: found not in (None, old), within_s=60)
        found: dict[str, Any] = {"controller_back_s": round(time.monotonic() - counted.began - killed_s, 1)}
        load.join()
        counted.stop()
        time.sleep(5)  # for the watchdog's last look
    at = {name: [counts for s, counts in counted.history if low <= s < high] for name, (low, high) in {
        "after": (killed_s, killed_s + after_s), "more": (killed_s + after_s, killed_s + after_s + more_s + 5),
    }.items()}  # fmt: skip
    found |= {
        "tts_before": before[TTS],
        "tts_least_after": min(counts[TTS] for counts in at["after"]),
        "tts_most_with_twice_the_load": max(counts[TTS] for counts in at["more"]),
        "tts_at_the_end": counted.history[-1][1][TTS],
        "load": load.figures(),
        "tts": counted.turns(),
        "killed_at_s": round(killed_s, 1),
        "traces": [in_words(event) for event in scale_events(tmp_path)],
    }
    results["controller killed"] = about() | found
    print(found)
    assert found["load"]["failed"] == 0
    for name, count in before.items():
        assert min(counts[name] for counts in at["after"]) >= count, f"{name} lost a replica with the controller"
    assert found["tts_most_with_twice_the_load"] > before[TTS], "the new controller's policy grows it"
    assert found["tts_at_the_end"] < found["tts_most_with_twice_the_load"], "and shrinks it"
