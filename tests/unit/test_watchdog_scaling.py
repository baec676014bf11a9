"""Each change of a target is told once, with its cause, when it is carried out."""

from __future__ import annotations

import json
from types import SimpleNamespace

from deployments import place
from deployments.scaling.policy import Change
from tracing import vocabulary
from tracing.redaction import Redaction
from watchdog.deployment import Watchdog
from watchdog.replicas import Replica, Service
from watchdog.reporter import Reporter
from watchdog.scaling import GIVEN_UP_S, SERVE, Scaling

TTS = "tts-service"


def service(target: int, running: int, starting: int = 0) -> dict[str, Service]:
    replicas = [Replica(f"r{n}", "RUNNING") for n in range(running)]
    replicas += [Replica(f"s{n}", "STARTING") for n in range(starting)]
    return {TTS: Service("HEALTHY", target, tuple(replicas))}


def change(before: int, after: int, at_s: float, cause: str = "arrivals") -> Change:
    return Change(TTS, before, after, cause, at_s, 20.0, 7, 0.4)


def test_a_change_is_told_with_its_cause_once_as_many_replicas_run():
    scaling = Scaling(now=0.0)
    scaling.observe(service(2, 2), [], 1.0, deploying=False)
    assert not scaling.changed(service(2, 2)) and scaling.changed(service(4, 2))
    changes = [change(2, 4, 3.0)]
    assert scaling.observe(service(4, 2, 2), changes, 5.0, deploying=False) == []
    [scaled] = scaling.observe(service(4, 4), changes, 20.0, deploying=False)
    assert (scaled.before, scaled.after, scaled.cause, scaled.began_s, scaled.reached) == (2, 4, "arrivals", 3.0, True)
    assert (scaled.rate, scaled.queue, scaled.wait_s) == (20.0, 7, 0.4)
    assert scaling.observe(service(4, 4), changes, 25.0, deploying=False) == []


def test_fewer_replicas_are_reached_when_the_others_are_gone():
    scaling = Scaling(now=0.0)
    scaling.observe(service(3, 3), [], 1.0, deploying=False)
    assert scaling.observe(service(1, 1, 1), [change(3, 1, 2.0, "less_load")], 5.0, deploying=False) == []
    [scaled] = scaling.observe(service(1, 1), [], 10.0, deploying=False)
    assert scaled.reached and scaled.cause == "less_load"


def test_a_change_that_another_one_overtakes_is_told_as_not_reached():
    scaling = Scaling(now=0.0)
    scaling.observe(service(2, 2), [], 1.0, deploying=False)
    [first] = scaling.observe(service(6, 2, 4), [change(2, 4, 2.0), change(4, 6, 3.0)], 5.0, deploying=False)
    assert (first.after, first.reached) == (4, False)
    [second] = scaling.observe(service(6, 6), [], 30.0, deploying=False)
    assert (second.before, second.after, second.reached) == (4, 6, True)


def test_what_the_policy_does_not_explain_is_serves_and_a_deploy_is_nobodys():
    scaling = Scaling(now=0.0)
    scaling.observe(service(2, 2), [], 1.0, deploying=False)
    [scaled] = scaling.observe(service(3, 3), [], 5.0, deploying=False)
    assert (scaled.cause, scaled.rate) == (SERVE, None)
    assert scaling.observe(service(5, 5), [], 10.0, deploying=True) == []
    assert scaling.observe(service(5, 5), [], 15.0, deploying=False) == []


def test_what_was_decided_before_the_watchdog_started_and_what_it_has_told_is_not_told_again():
    scaling = Scaling(now=100.0)
    assert scaling.observe(service(4, 4), [change(2, 4, 99.0)], 101.0, deploying=False) == []


def test_replicas_that_never_come_are_told_after_a_while():
    scaling = Scaling(now=0.0)
    scaling.observe(service(2, 2), [], 1.0, deploying=False)
    scaling.observe(service(4, 2, 2), [change(2, 4, 2.0)], 5.0, deploying=False)
    assert scaling.observe(service(4, 2, 2), [], 500.0, deploying=False) == []
    [scaled] = scaling.observe(service(4, 2, 2), [], 3.0 + GIVEN_UP_S, deploying=False)
    assert not scaled.reached


def test_a_silent_serve_says_nothing():
    scaling = Scaling(now=0.0)
    scaling.observe(service(2, 2), [], 1.0, deploying=False)
    assert scaling.observe({}, [], 5.0, deploying=False) == []
    assert scaling.observe(service(2, 2), [], 10.0, deploying=False) == []


def test_the_trace_says_what_and_why_and_all_of_it_may_leave():
    sent: list[bytes] = []
    reporter = object.__new__(Reporter)
    reporter._tracer = place.tracer(vocabulary.WATCHDOG, "replica")
    reporter._metrics = SimpleNamespace(actions=SimpleNamespace(inc=lambda *_: None))
    reporter.exporter = SimpleNamespace(submit=sent.append, close=lambda timeout_s: None)
    watchdog = object.__new__(Watchdog)
    watchdog.reporter = reporter
    scaling = Scaling(now=0.0)
    scaling.observe(service(2, 2), [], 1.0, deploying=False)
    [scaled] = scaling.observe(service(4, 4), [change(2, 4, 3.0)], 5.0, deploying=False)
    watchdog._report_scaled(scaled, 20.0)
    left, removed = Redaction().redact(sent[0])
    assert removed == 0
    [span] = json.loads(left) if isinstance(left, bytes | str) else left
    assert span["name"].upper() == "SCALED_UP" and span["duration"] == 17_000_000
    tags = span["tags"]
    assert (tags["watchdog.cause"], tags["watchdog.service"]) == ("arrivals", TTS)
    assert (tags["scaling.from"], tags["scaling.to"], tags["scaling.reached"]) == ("2", "4", "true")
    assert (tags["scaling.rate"], tags["scaling.queue"], tags["scaling.wait_ms"]) == ("20", "7", "400")
