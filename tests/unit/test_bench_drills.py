"""The drills of docs/runbook.md, without a graph: none is forgotten, and what they measure with works."""

from __future__ import annotations

import re
import time
import uuid

import httpx
import pytest

from bench.alerts import Alert, Unlike
from bench.drills import THRESHOLDS, merged, row
from bench.misfortunes import ALL, NOT_TRIED
from bench.traffic import Traffic
from cluster.monitoring import rules
from cluster.ray_head import ROOT
from deployments.ingress.metrics import REQUEST_S


def test_every_alert_has_a_drill_or_says_why_not():
    drilled = {kind.alert for kind in ALL}
    assert drilled.isdisjoint(NOT_TRIED)
    assert drilled | set(NOT_TRIED) == set(re.findall(r"- alert: (\w+)", rules()))


def test_the_runbook_has_a_row_for_each():
    table = re.findall(r"^\| ([A-Z]\w+) \|", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert set(table) == {kind.alert for kind in ALL} | set(NOT_TRIED)


def test_the_threshold_is_an_edge():
    assert THRESHOLDS.slow_s in REQUEST_S and f"[{THRESHOLDS.window_s}s]" in rules(thresholds=THRESHOLDS)


def test_a_link_that_finds_nothing_is_told(zipkin):
    end_ms = int(time.time() * 1000)
    link = f"{zipkin.url}/zipkin/?serviceName=nobody&lookback=millis&millis=60000&endTs={end_ms}&limit=10"
    with pytest.raises(Unlike, match="finds nothing"):
        Alert("OnFallback", {"traces": link}).traces()


def test_a_link_is_asked_as_zipkins_page_asks(zipkin):
    began_us = int(time.time() * 1e6)
    span = {
        "traceId": uuid.uuid4().hex,
        "id": f"{7:016x}",
        "name": "check_failed",
        "timestamp": began_us,
        "duration": 5,
        "localEndpoint": {"serviceName": "drilled"},
    }
    httpx.post(f"{zipkin.url}/api/v2/spans", json=[span], trust_env=False).raise_for_status()
    link = (
        f"{zipkin.url}/zipkin/?serviceName=drilled&spanName=check_failed&lookback=millis&millis=60000"
        f"&endTs={began_us // 1000 + 1000}&limit=10"
    )
    end = time.monotonic() + 20
    while True:
        try:
            [[found]] = Alert("CanaryFails", {"traces": link}).traces()
            break
        except Unlike:
            assert time.monotonic() < end
            time.sleep(0.2)
    assert found["traceId"] == span["traceId"]


def test_a_row_says_when_it_fired_and_when_it_was_gone():
    found = {
        "alert": "OnFallback",
        "happens": "this",
        "fired_s": 12.3,
        "value": "fallback",
        "seen": "that",
        "beside": [],
        "mended": "so",
        "gone_s": 20.7,
    }
    assert row(found) == "| OnFallback | this | 12 s, “fallback” | that | – | so: gone after 21 s |"
    assert row(found | {"beside": ["CanaryFails"], "gone_s": None}).endswith("| CanaryFails | so |")


def test_what_is_left_out_stays_as_it_was_in_its_place():
    others = [{"alert": kind.alert, "happens": kind.happens, "was": 1} for kind in ALL if kind.alert != "StageDown"]
    [down] = [{"alert": kind.alert, "happens": kind.happens} for kind in ALL if kind.alert == "StageDown"]
    found = merged([down], others)
    assert [one["happens"] for one in found] == [kind.happens for kind in ALL]
    assert [one for one in found if "was" not in one] == [down]


def test_traffic_outlives_a_server_that_is_not_there():
    traffic = Traffic(1, [{"text": "a", "dialect": "en-US"}], clients=3, pause_s=0.01)
    traffic.start()
    end = time.monotonic() + 10
    while traffic.statuses[0] < 10:
        assert time.monotonic() < end
        time.sleep(0.02)
    traffic.stop()
    assert not traffic.is_alive() and set(traffic.statuses) == {0}
