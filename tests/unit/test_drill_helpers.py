"""The drills of docs/runbook.md, without a graph: none is forgotten, and what they measure with works."""

from __future__ import annotations

import json
import re
import time
import uuid

import httpx
import pytest

from cluster.monitoring import rules
from cluster.ray_head import ROOT
from deployments.ingress.metrics import REQUEST_S
from tests.drills.alert_drill import THRESHOLDS, DrillResult, merged
from tests.drills.alerts import Alert, CheckFailed
from tests.drills.faults import ALL, NOT_TRIED
from tests.drills.traffic import Traffic


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
    with pytest.raises(CheckFailed, match="finds nothing"):
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
        except CheckFailed:
            assert time.monotonic() < end
            time.sleep(0.2)
    assert found["traceId"] == span["traceId"]


def result(**changed) -> DrillResult:
    fields = {
        "date": "2026-11-27",
        "alert": "OnFallback",
        "description": "this",
        "fired_s": 12.3,
        "value": "fallback",
        "stage": "tts-service",
        "summary": "",
        "observed": "that",
        "fired_beside": [],
        "remedy": "so",
        "ended_s": 20.7,
    }
    return DrillResult(**fields | changed)


def test_a_row_says_when_the_alert_fired_and_when_it_ended():
    assert result().row() == "| OnFallback | this | 12 s, “fallback” | that | – | so: gone after 21 s |"
    assert result(fired_beside=["CanaryFails"], ended_s=None).row().endswith("| CanaryFails | so |")


def test_drills_that_were_left_out_keep_their_earlier_row():
    earlier = [result(alert=fault.alert, description=fault.description, observed="earlier") for fault in ALL]
    again = [result(alert=one.alert, description=one.description) for one in earlier if one.alert == "StageDown"]
    found = merged(again, earlier)
    assert [one.description for one in found] == [fault.description for fault in ALL]
    assert [one for one in found if one.observed == "that"] == again != []


def test_a_row_of_a_fault_that_is_gone_goes_too():
    assert merged([], [result(alert="NoSuchAlert")]) == []


def test_the_record_is_the_runbooks_table():
    record = json.loads((ROOT / "tests" / "drills" / "results" / "alerts.json").read_text())
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    for one in record["drills"]:
        assert DrillResult(**one).row() in runbook


def test_traffic_outlives_a_server_that_is_not_there():
    traffic = Traffic(1, [{"text": "a", "dialect": "en-US"}], clients=3, pause_s=0.01)
    traffic.start()
    end = time.monotonic() + 10
    while traffic.statuses[0] < 10:
        assert time.monotonic() < end
        time.sleep(0.02)
    traffic.stop()
    assert not traffic.is_alive() and set(traffic.statuses) == {0}
