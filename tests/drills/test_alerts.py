"""Every alert of docs/runbook.md, provoked, inspected and repaired, on a graph of its own.

The graph has the simulated engine, a second engine that stands by, the watchdog, a real Zipkin, a real Prometheus with
the project's rules and a real Alertmanager. Windows of the rules are 30 s, not 5 minutes; a condition must hold for
5 s; scrapes are 5 s apart, not 30; slow is above 1 s; a canary comes every 2 s. Nothing else of the rules differs.
Traffic goes on all the time.

Each drill: no alert fires; a fault is injected (faults.py); its alert fires; the alert's link is opened as Zipkin's
page would (except for Zipkin's own faults); the runbook's steps show what they say; the fault is repaired; the alert
ends. All of them take about a quarter of an hour. The rows of the runbook's table are printed (`pytest -s`) and
stand in results/alerts.json; faults that are deselected keep their earlier row.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.measuring.private_graph import private_graph
from bench.measuring.private_monitoring import private_monitoring
from bench.measuring.private_zipkin import private_zipkin
from bench.measuring.records import about, save
from tests.drills.alert_drill import THRESHOLDS, DrillResult, drill, merged
from tests.drills.alerts import Alerts
from tests.drills.environment import Environment
from tests.drills.faults import ALL, CALM, GOOD, NOT_TRIED, Fault
from tests.drills.traffic import Traffic

RESULTS = Path(__file__).parent / "results" / "alerts.json"
SIMULATED = {"prepare_ms": 1, "encode_ms": 2, "generate_ms": 100, "vocode_ms": 2, "batch_slope": 0.1, "seconds": 1}
WATCHDOG = {
    "check_every_s": 1,
    "canary_every_s": 2,
    "canary_slow_s": 20,
    "canary_within_s": 30,
    "failures": 3,
    "successes": 3,
    "backoff_s": 5,
}
HISTORY_S = 75.0  #: of good traffic before the first fault: windows are compared with it

pytestmark = [pytest.mark.drill, pytest.mark.in_order]


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    with tempfile.TemporaryDirectory(prefix="drills-") as folder, private_zipkin() as zipkin_url:
        fault = Path(folder) / "fault"
        args = {
            "engine": "simulated",
            "engine_options": SIMULATED | {"faults": True, "fault_file": str(fault)},
            "fallback": {"engine": "simulated", "engine_options": SIMULATED},
            "limits": {"deadline_s": 20},
            "tracing": {"spool_limit_mb": 2, "retry_most_s": 2},
        }
        with (
            private_graph(args, num_cpus=8, zipkin_url=zipkin_url, watchdog=WATCHDOG) as graph,
            private_monitoring(graph.head, zipkin_url, THRESHOLDS) as servers,
        ):
            traffic = Traffic(graph.port, GOOD, *CALM)
            traffic.start()
            try:
                time.sleep(HISTORY_S)
                yield Environment(graph, zipkin_url, Alerts(servers["prometheus"].url), traffic, fault)
            finally:
                traffic.stop()


@pytest.fixture(scope="module")
def results() -> Iterator[list[DrillResult]]:
    """Collects the drills' results; written down, over those of earlier runs, at the end."""
    found: list[DrillResult] = []
    yield found
    earlier = [DrillResult(**one) for one in json.loads(RESULTS.read_text())["drills"]] if RESULTS.exists() else []
    rows = merged(found, earlier)
    print("", *(one.row() for one in rows), sep="\n")
    save(
        RESULTS,
        {
            **about(),
            "simulated": SIMULATED,
            "thresholds": vars(THRESHOLDS),
            "watchdog": WATCHDOG,
            "drills": [one.as_dict() for one in rows],
            "not_tried": NOT_TRIED,
        },
    )


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_alert_fires_and_ends(kind: type[Fault], environment, results):
    results.append(drill(kind(), environment))
