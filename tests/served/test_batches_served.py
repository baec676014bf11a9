"""Batches in the running graph: who is in them, what their spans say, who fails, and settings that change live."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import statistics
import time
from collections import Counter

import httpx
import pytest

from deployments.stages.embedding import EmbeddingService
from deployments.stages.tts import TtsService
from tests.helpers.serving import App

MEMBER = {"batch.id", "batch.size", "batch.wait_ms", "compute_ms", "queue.wait_ms", "replica.id", "device"}


def together(app: App, texts: list[str]) -> list[tuple[httpx.Response, dict]]:
    """Requests that all wait when tts-service goes on, and the tags of their GENERATE_MEL; the first comes first."""
    [replica] = app.replicas("tts-service")
    os.kill(replica["pid"], signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
            answers = [pool.submit(app.post, text=texts[0])]
            time.sleep(0.5)
            answers += [pool.submit(app.post, text=text) for text in texts[1:]]
            time.sleep(1)
            os.kill(replica["pid"], signal.SIGCONT)
            answers = [answer.result() for answer in answers]
    finally:
        os.kill(replica["pid"], signal.SIGCONT)
    traces = [app.trace(answer.headers["x-trace-id"], spans=4) for answer in answers]
    return [
        (answer, next(span for span in trace if span["name"] == "generate_mel")["tags"])
        for answer, trace in zip(answers, traces, strict=True)
    ]


def largest(answers: list[tuple[httpx.Response, dict]]) -> int:
    return max(Counter(tags["batch.id"] for _, tags in answers).values())


def test_defaults_are_eight_and_200_ms():
    for stage in (EmbeddingService, TtsService):
        assert stage.batching.model_dump() == {"max_batch_size": 8, "batch_wait_ms": 200.0}


def test_a_lone_request_waits_for_nobody(watched):
    """The median: what a busy machine does to one of them is its own affair."""
    watched.wait_ready()
    traces = [watched.trace(watched.post().headers["x-trace-id"], spans=5) for _ in range(7)]
    for stage in ("extract_speaker", "generate_mel"):
        found = [span["tags"] for trace in traces for span in trace if span["name"] == stage]
        assert {tags["batch.size"] for tags in found} == {"1"} and len(found) == 7
        assert statistics.median(float(tags["batch.wait_ms"]) for tags in found) < 5


@pytest.mark.parametrize(
    "text, status, kind", [("refuse:generate", 400, "input_validation"), ("fault:generate", 500, "internal")]
)
def test_a_bad_member_fails_alone_and_every_member_tells_the_whole_story(watched, text, status, kind):
    """The engine says which one is bad, or raises for the whole batch."""
    watched.wait_ready()
    answers = together(watched, ["Hello"] * 4 + [text] + ["Hello"] * 3)
    refused, tags = answers[4]
    fine = answers[:4] + answers[5:]
    assert [answer.status_code for answer, _ in fine] == [200] * 7
    assert refused.status_code == status and refused.json()["error"]["type"] == kind
    assert tags["error.type"] == kind and not any("error" in tags for _, tags in fine)
    assert all(MEMBER <= tags.keys() for _, tags in answers), "the one that failed no less"
    sizes = Counter(tags["batch.id"] for _, tags in answers)
    assert all(int(tags["batch.size"]) == sizes[tags["batch.id"]] for _, tags in answers)
    assert sizes[tags["batch.id"]] > 1, "it was not alone in its batch"


def test_batch_settings_change_without_a_restart(watched):
    watched.wait_ready()
    services = ("cosyvoice3-api", "audio-service", "embedding-service", "tts-service", "vocoder-service")
    before = {service: watched.replicas(service)[0]["pid"] for service in services}
    new = {"max_batch_size": 2, "batch_wait_ms": 50}

    def change(entry: dict) -> None:
        tts = next(deployment for deployment in entry["deployments"] if deployment["name"] == "tts-service")
        tts["user_config"] = new

    watched.redeploy(change)
    end = time.monotonic() + 60
    while True:
        app = watched.dashboard.applications()["watched"]
        tts = app.get("deployments", {}).get("tts-service", {})
        if tts.get("deployment_config", {}).get("user_config") == new and app["status"] == "RUNNING":
            break
        assert time.monotonic() < end, "the new settings never arrived"
        time.sleep(0.2)
    assert largest(together(watched, ["Hello"] * 8)) == 2
    assert {service: watched.replicas(service)[0]["pid"] for service in services} == before, "nothing was restarted"
