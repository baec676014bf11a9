"""Tracing switched off and on again, and its ratio changed, while the graph serves: the same processes all along."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.helpers.serving import App


def switch(app: App, **user_config) -> None:
    def change(entry: dict) -> None:
        next(one for one in entry["deployments"] if one["name"] == "cosyvoice3-api")["user_config"] = user_config

    app.redeploy(change)


def answered(app: App, fits, within_s: float = 20.0, **fields) -> httpx.Response:
    """The first answer that fits: a new setting is in force within a second or two."""
    end = time.monotonic() + within_s
    while not fits(answer := app.post(**fields)):
        assert time.monotonic() < end, answer.headers
    return answer


@pytest.fixture
def switched(fast):
    fast.wait_ready()
    yield fast
    switch(fast, tracing=True)
    answered(fast, lambda answer: "x-trace-url" in answer.headers)


def test_off_and_on_again_without_a_restart(switched, ray_driver):
    before = {service: [r["pid"] for r in switched.replicas(service)] for service in ("cosyvoice3-api", "tts-service")}
    switch(switched, tracing=False)
    answer = answered(switched, lambda answer: "x-trace-url" not in answer.headers)
    failed = switched.post(dialect="")
    assert answer.status_code == 200 and failed.status_code == 400
    switch(switched, tracing=True)
    kept = answered(switched, lambda answer: "x-trace-url" in answer.headers)
    switched.trace(kept.headers["x-trace-id"], spans=5)
    for silent in (answer, failed):
        gone = httpx.get(f"{switched.zipkin}/api/v2/trace/{silent.headers['x-trace-id']}", trust_env=False)
        assert gone.status_code == 404, "no span of it, of no service"
    assert before == {service: [r["pid"] for r in switched.replicas(service)] for service in before}
    [counters] = switched.counters()
    assert counters["untraced"] >= 2


def test_the_ratio_changes_live_and_errors_are_kept_all_the_same(switched):
    switch(switched, sampling_ratio=0.0)
    answered(switched, lambda answer: answer.status_code == 200 and "x-trace-url" not in answer.headers)
    failed = switched.post(dialect="")
    assert failed.status_code == 400
    [root] = switched.trace(failed.headers["x-trace-id"])
    assert root["tags"]["sampling.reason"] == "error"
