"""A voice's fit behind the graph: from its enrolment to a request that uses it, and through the end of its service.

The application is this file's own, beside those of the session: none of theirs fits voices.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

import graph
from cluster import ports
from cluster.serving import Dashboard
from deployments.settings import GraphConfig
from tests.helpers.serving import App, sound, tone
from voices.fits import CLAIM_S
from webui import sse

pytestmark = pytest.mark.proof

NAME = "fitting"
ENGINE = {"prepare_ms": 1, "encode_ms": 1, "generate_ms": 5, "vocode_ms": 1, "seconds": 1, "fit_ms": 800}


@pytest.fixture(scope="module")
def app(ray_driver, ray_head, zipkin, tracing, tmp_path_factory) -> Iterator[App]:
    from ray import serve

    was_running = serve.status().proxies != {}
    if not was_running:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": ports.any_free()})
    port = serve.context._get_global_client().get_serve_details()["http_options"]["port"]
    voices = {"url": str(tmp_path_factory.mktemp("fitting") / "voices")}
    config = GraphConfig(engine="simulated", engine_options=ENGINE, tracing=tracing, voices=voices)
    serve.run(graph.build(config), name=NAME, route_prefix=f"/{NAME}")
    found = App(NAME, port, zipkin.url, Dashboard(ray_head), {})
    found.wait_ready()
    yield found
    serve.delete(NAME)
    if not was_running:
        serve.shutdown()


def enrol(app: App, name: str, hz: float, **fields: str) -> httpx.Response:
    answer = httpx.post(
        f"{app.url}/v1/audio/voices",
        data={"name": name, "dialect": "en-US", "consent": "Agreed for tests."} | fields,
        files={"audio_sample": ("clip.wav", tone(hz=hz, level=0.3))},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text
    return answer


def fit_of(app: App, name: str) -> dict:
    return httpx.get(f"{app.url}/v1/audio/voices/{name}", timeout=30, trust_env=False).json()["fit"]


def say(app: App, name: str) -> httpx.Response:
    answer = httpx.post(f"{app.url}/api/generate", data={"text": "Hello", "voice": name}, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer


def wait_for(app: App, name: str, state: str, step: int = 0, within_s: float = 60.0) -> list[tuple[str, int]]:
    """Wait for a state, and return all that were seen on the way, each once."""
    seen, end = [], time.monotonic() + within_s
    while True:
        fit = fit_of(app, name)
        if (now := (fit["state"], fit["step"])) not in seen:
            seen.append(now)
        if fit["state"] == state and fit["step"] >= step:
            return seen
        assert time.monotonic() < end and fit["state"] in ("queued", "running"), seen
        time.sleep(0.05)


def fit_traces(app: App, asked_by: str, count: int = 1, within_s: float = 20.0) -> list[dict]:
    """The spans of fitting-service that name this request, from Zipkin."""
    end = time.monotonic() + within_s
    while True:
        query = {"serviceName": "fitting-service", "annotationQuery": f"fit.asked_by={asked_by}", "limit": "10"}
        found = httpx.get(f"{app.zipkin}/api/v2/traces", params=query, trust_env=False).json()
        if len(found) >= count:
            return [span for trace in found for span in trace]
        assert time.monotonic() < end, f"Zipkin has {len(found)} fits of {asked_by}"
        time.sleep(0.2)


def root(app: App, answer: httpx.Response) -> dict:
    return next(span for span in app.trace(answer.headers["x-trace-id"]) if span["name"] == "post /api/generate")


def test_a_voice_is_usable_at_once_and_fitted_soon(app):
    assert app.replicas("fitting-service") == [], "nothing to do, no replica"
    enrolled = enrol(app, "anna", hz=180)
    assert enrolled.json()["fit"]["state"] == "queued"
    steered = say(app, "anna")
    assert steered.headers["x-voice-fit"] == "steered" and root(app, steered)["tags"]["voice.fit"] == "steered"
    seen = wait_for(app, "anna", "done")
    assert {state for state, _ in seen} >= {"running", "done"} and len(seen) >= 5, "its steps are shown"
    fitted = say(app, "anna")
    assert fitted.headers["x-voice-fit"] == "fitted" and sound(fitted) != sound(steered)
    assert root(app, fitted)["tags"]["voice.fit"] == "fitted"
    [span] = fit_traces(app, enrolled.headers["x-trace-id"])
    assert span["name"] == "fit_voice" and "parentId" not in span
    assert span["tags"].items() >= {"fit.steps": "10", "fit.kept": "true", "fit.stopped": "all_steps"}.items()
    assert "error" not in span["tags"]


def test_a_request_that_waits_gets_the_fitted_voice_and_tells_each_step(app):
    with httpx.stream(
        "POST",
        f"{app.url}/api/generate",
        data={"text": "Hello", "dialect": "en-US", "fit": "wait", "stream_format": "sse"},
        files={"prompt_audio": ("clip.wav", tone(hz=300, level=0.3))},
        timeout=60,
        trust_env=False,
    ) as answer:
        assert answer.status_code == 200
        told = [(name, json.loads(data)) for name, data in sse.events(answer.iter_bytes())]
    steps = [fields["step"] for name, fields in told if name == "fit"]
    assert steps == sorted(steps) and len(steps) >= 5
    name, done = told[-1]
    assert name == "done" and done["voice_fit"] == "fitted" and done["seconds"] > 0
    names = [name for name, _ in told]
    assert names.index("audio") > max(place for place, name in enumerate(names) if name == "fit")
    spans = app.trace(done["trace_id"], spans=5)
    tags = next(span["tags"] for span in spans if span["name"] == "post /api/generate")
    assert tags["voice.fit"] == "fitted" and float(tags["fit.wait_ms"]) > 5_000
    assert httpx.get(f"{app.url}/v1/audio/voices", trust_env=False).json()["data"][-1]["name"] == "anna"


def test_a_service_killed_in_the_middle_is_succeeded_and_no_request_notices(app):
    enrolled = enrol(app, "bert", hz=220)
    wait_for(app, "bert", "running", step=8)
    [replica] = app.replicas("fitting-service")
    killed = time.monotonic()
    os.kill(replica["pid"], signal.SIGKILL)
    assert say(app, "bert").headers["x-voice-fit"] == "steered"
    seen = wait_for(app, "bert", "done")
    assert time.monotonic() - killed < CLAIM_S + 30
    assert min(step for state, step in seen if state == "running") >= 6, "what was kept was not made again"
    assert say(app, "bert").headers["x-voice-fit"] == "fitted"
    [span] = fit_traces(app, enrolled.headers["x-trace-id"])
    assert int(span["tags"]["fit.taken_up_at"]) >= 5
    with suppress(ProcessLookupError):
        os.kill(replica["pid"], 0)
        pytest.fail("the replica that was killed lives")


def test_a_voice_without_a_fit_is_fitted_when_asked_and_deleting_it_deletes_the_fit(app):
    assert enrol(app, "carl", hz=260, fit="false").json()["fit"] is None
    answer = httpx.post(f"{app.url}/v1/audio/voices/carl/fit", timeout=30, trust_env=False)
    assert answer.status_code == 202 and answer.json()["fit"]["state"] == "queued"
    wait_for(app, "carl", "running")
    gone = httpx.delete(f"{app.url}/v1/audio/voices/carl", timeout=30, trust_env=False)
    assert gone.json()["deleted"] is True
    [span] = fit_traces(app, answer.headers["x-trace-id"])
    assert span["tags"]["fit.stopped"] == "lost" and "error" not in span["tags"]
