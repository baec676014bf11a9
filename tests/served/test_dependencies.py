"""Zipkin's dependency graph over the real graph: the four links, with the counts that the requests account for."""

from __future__ import annotations

import secrets
import time

import httpx

from tests.helpers.serving import App, tone

STAGES = ["audio-service", "embedding-service", "tts-service", "vocoder-service"]


def links(app: App, since_ms: int) -> dict[tuple[str, str], tuple[int, int]]:
    """(parent, child) -> (callCount, errorCount) of the traces that began after `since_ms`."""
    now = int(time.time() * 1000)
    answer = httpx.get(
        f"{app.zipkin}/api/v2/dependencies",
        params={"endTs": now, "lookback": now - since_ms},
        trust_env=False,
        timeout=30,
    )
    return {(link["parent"], link["child"]): (link["callCount"], link.get("errorCount", 0)) for link in answer.json()}


def test_the_counts_are_those_of_the_spans(watched):
    watched.wait_ready()
    time.sleep(0.1)
    since = int(time.time() * 1000)
    trace, short, span = secrets.token_hex(16), secrets.token_hex(8), secrets.token_hex(8)
    answers = [
        *(watched.post() for _ in range(3)),
        watched.post(headers={"b3": f"{trace}-{span}-1"}),
        watched.post(headers={"b3": f"{short}-{span}-1"}),
        watched.post(headers={"X-B3-TraceId": secrets.token_hex(8), "X-B3-SpanId": span, "X-B3-Sampled": "1"}),
        watched.post(headers={"traceparent": f"00-{secrets.token_hex(16)}-{span}-01"}),
        watched.post(dialect="no-such"),  # refused by the ingress: no stage has a span
        watched.post(clip=tone(rate=8000)),  # refused by the first stage
        watched.post(prompt_text="fault:encode"),
        watched.post(text="fault:generate"),
        watched.post(text="fault:vocode"),
    ]
    assert [answer.status_code for answer in answers] == [200] * 7 + [400, 400, 500, 500, 500]
    assert answers[3].headers["x-trace-id"] == trace and answers[4].headers["x-trace-id"] == "0" * 16 + short
    expected = {
        ("cosyvoice3-api", service): counts
        for service, counts in zip(STAGES, ((11, 1), (10, 1), (9, 1), (8, 1)), strict=True)
    }
    end = time.monotonic() + 20
    while (found := links(watched, since)) != expected and time.monotonic() < end:
        time.sleep(0.3)
    assert found == expected, "these links, these counts, and no others"
    by_short_id = httpx.get(f"{watched.zipkin}/api/v2/trace/{short}", trust_env=False)
    assert by_short_id.status_code == 200 and len(by_short_id.json()) == 5, "found by the id its caller knows"
