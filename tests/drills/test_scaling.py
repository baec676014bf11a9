"""A burst on a real Ray Serve, with the scaling policy and with Serve's default: the same arrivals, the same replicas.

The simulated engine, so that a replica's device is a stated time: GENERATE_MEL takes 0.3 s, and a tenth of a second for
each further request of a batch. The figures are printed (`pytest -s`) and stand in results/scaling.json. Eight minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.measuring.clips import clip
from bench.measuring.load import Sample, arrivals, multipart, open_loop, percentile
from bench.measuring.records import about, save
from cluster import ports
from tests.drills.scaled_graph import (
    ENGINE,
    MOST,
    TTS,
    WAIT_S,
    ReplicaSeconds,
    config,
    in_words,
    scale_events,
    scaled_graph,
    spans,
)

pytestmark = [pytest.mark.drill, pytest.mark.in_order]

RESULTS = Path(__file__).parent / "results" / "scaling.json"
CALM_S, BURST_S, AFTER_S = 40, 60, 100
CALM, BURST = 1.5, 14.0  #: requests a second; a replica of tts-service does 8 in full batches


def load(port: int) -> list[Sample]:
    """Send a calm, a burst and another calm, open loop."""
    parts = [(CALM, CALM_S, 0), (BURST, BURST_S, CALM_S), (CALM, AFTER_S, CALM_S + BURST_S)]
    moments = [begin + at for number, (rate, s, begin) in enumerate(parts) for at in arrivals(rate, s, seed=number)]
    request = multipart(f"127.0.0.1:{port}", {"text": "Hello there", "dialect": "en-US"}, clip(4))
    return asyncio.run(open_loop("127.0.0.1", port, [(at, request) for at in moments], timeout_s=400))


def measured(policy: str, folder: Path) -> dict[str, Any]:
    """Run the load on a Ray head of its own."""
    port = ports.any_free()
    with scaled_graph(config(policy, folder, port), folder, port) as graph:
        counted = ReplicaSeconds(graph)
        counted.start()
        samples = load(port)
        counted.stop()
        time.sleep(5)  # for the watchdog's last look
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
        "tts": counted.turns(),
    }


def _read(folder: Path, tag: str) -> list[str]:
    return [span["tags"][tag] for span in spans(folder) if tag in span["tags"] and "parentId" not in span]


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
    told = [in_words(event) for event in events]
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
