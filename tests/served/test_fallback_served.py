"""The fallback engine behind the graph: who is sent there, what its traces say, and the way back."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.helpers.serving import App

STAGES = {"preprocess_audio", "extract_speaker", "generate_mel", "vocode_wav"}


def steer(app: App, line: str, for_s: float = 30.0) -> list[str]:
    from ray import serve

    return serve.get_deployment_handle("cosyvoice3-api", app.name).broadcast("steer", line, for_s).results(timeout_s=20)


@pytest.fixture
def on_fallback(watched, ray_driver):
    watched.wait_ready()
    assert set(steer(watched, "fallback")) == {"fallback"}
    yield watched
    assert set(steer(watched, "primary")) == {"primary"}


def test_the_other_engine_answers_where_the_first_one_fails(on_fallback):
    answer = on_fallback.post(text="fault:generate")
    assert answer.status_code == 200, answer.text
    spans = {span["name"]: span for span in on_fallback.trace(answer.headers["x-trace-id"], spans=5)}
    root = spans.pop("post /api/generate")
    assert root["tags"]["request.fallback"] == "true" and spans.keys() == STAGES
    assert {span["localEndpoint"]["serviceName"] for span in spans.values()} == {
        "audio-service",
        "embedding-service",
        "tts-service",
        "vocoder-service",
    }
    ready = httpx.get(f"{on_fallback.url}/ready", trust_env=False).json()
    assert ready["line"] == "fallback" and ready["ready"]


def test_who_tries_the_first_engine_gets_there_meanwhile(on_fallback):
    answer = on_fallback.post(text="fault:generate", headers={"X-Cosygraph-Line": "primary"})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "internal"


def test_an_ingress_that_hears_nothing_more_goes_back_by_itself(on_fallback):
    steer(on_fallback, "fallback", for_s=0.2)
    time.sleep(0.3)
    answer = on_fallback.post(text="fault:generate")
    assert answer.status_code == 500
    root = next(span for span in on_fallback.trace(answer.headers["x-trace-id"], spans=4) if "parentId" not in span)
    assert "request.fallback" not in root["tags"]


def test_without_a_fallback_engine_nobody_can_be_sent_to_one(fast, ray_driver):
    fast.wait_ready()
    with pytest.raises(Exception, match="no fallback engine is configured: set `fallback` in the graph's config"):
        steer(fast, "fallback")
    assert set(steer(fast, "primary")) == {"primary"}
