"""Traces as Zipkin answers them, built by hand for the doctor's tests: what a request was, in a line each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from cluster.doctor.evidence import Evidence
from cluster.doctor.examination import examine
from cluster.doctor.finding import Finding
from cluster.doctor.traces import Trace
from cluster.doctor.window import Window
from cluster.doctor.zipkin_reader import Read
from tracing import vocabulary

BEGIN, LENGTH = 1_790_000_000.0, 3600.0  #: seconds
ALICE, BOB = "a11ce0" * 5 + "ff", "b0b000" * 5 + "ee"
#: Zipkin's memory finds a trace by the lower half of its id, so these must be different from those of other helpers
#: that use the same Zipkin: tests/helpers/gating.py counts from 1.
_ids = itertools.count(0xD0C << 48)


def spans(
    *,
    at: float = 10.0,
    status: int = 200,
    ms: float = 500,
    user: str = ALICE,
    weight: float = 10,
    dialect: str | None = "mandarin",
    stages: dict[str, dict] | None = None,
    error: str | None = None,
    code: str | None = None,
    failing: str | None = None,
    lost: str | None = None,
    **tags: str,
) -> list[dict]:
    """Make a request's trace.

    Args:
        at: Seconds after BEGIN.
        failing: The stage at which the request ends with `error` and `code`.
        lost: A stage that does not answer.
        stages: Changes of a stage's tags; `ms` in it is the stage's time.
    """
    number = next(_ids)
    trace, start = f"{number:032x}", int((BEGIN + at) * 1e6)
    sampling = {
        vocabulary.SAMPLING_REASON: "ratio" if status == 200 and not lost else "error",
        vocabulary.SAMPLING_ADJUSTED_COUNT: f"{weight:g}" if status == 200 and not lost else "1",
    }
    failed = {vocabulary.ERROR: error, vocabulary.ERROR_TYPE: error} if error else {}
    failed |= {vocabulary.ERROR_CODE: code} if code else {}

    def span(name: str, kind: str, service: str, at_us: int, took_ms: float, own: dict, **more) -> dict:
        return {
            "traceId": trace,
            "id": f"{next(_ids):016x}",
            "kind": kind,
            "name": name.lower(),
            "timestamp": at_us,
            "duration": int(took_ms * 1000),
            "localEndpoint": {"serviceName": service},
            "tags": {key: str(value) for key, value in (own | sampling).items()},
            **more,
        }

    spoken = {vocabulary.REQUEST_DIALECT: dialect, vocabulary.REQUEST_DIALECT_SOURCE: "request"} if dialect else {}
    root = span(
        "post /api/generate",
        "SERVER",
        vocabulary.INGRESS,
        start,
        ms,
        {
            vocabulary.HTTP_ROUTE: "/api/generate",
            vocabulary.HTTP_STATUS_CODE: status,
            vocabulary.USER_HASH: user,
            vocabulary.VOICE_CACHE: "miss",
            vocabulary.QUEUE_WAIT_MS: 0.1,
            **spoken,
            **failed,
            **tags,
        },
    )
    found = [root]
    if status in (401, 403) or dialect is None:
        return found
    for index, (stage, service) in enumerate(vocabulary.STAGE_SERVICE.items()):
        own: dict[str, Any] = {
            vocabulary.QUEUE_WAIT_MS: 1,
            vocabulary.COMPUTE_MS: 50,
            vocabulary.DEVICE: "cpu",
            vocabulary.STAGE: stage,
        }
        own |= (
            {vocabulary.AUDIO_SAMPLE_RATE: 16000}
            if stage == vocabulary.PREPROCESS_AUDIO
            else {vocabulary.BATCH_SIZE: 1, vocabulary.BATCH_WAIT_MS: 0, vocabulary.BATCH_ID: f"{next(_ids):016x}"}
        )
        own |= (stages or {}).get(stage, {})
        took = own.pop("ms", 50)
        at_us = start + index * 60_000
        if lost == stage:
            found.append(
                span(
                    stage,
                    "CLIENT",
                    vocabulary.INGRESS,
                    at_us,
                    took,
                    {vocabulary.ERROR: "the replica died", vocabulary.ERROR_TYPE: "stage_unavailable"},
                    parentId=root["id"],
                    remoteEndpoint={"serviceName": service},
                )
            )
            if status != 200:
                break
        found.append(
            span(
                stage,
                "SERVER",
                service,
                at_us + 10,
                took,
                own | (failed if failing == stage else {}),
                parentId=root["id"],
            )
        )
        if failing == stage:
            break
    return found


def many(count: int, **more) -> list[list[dict]]:
    """Evenly over the hour."""
    return [spans(at=(number + 0.5) * LENGTH / count, **more) for number in range(count)]


def narrow(count: int, **more) -> list[list[dict]]:
    """Refused for 8 kHz."""
    stages = {vocabulary.PREPROCESS_AUDIO: {vocabulary.AUDIO_SAMPLE_RATE: 8000}}
    return many(
        count,
        status=400,
        error="input_validation",
        code="sample_rate_too_low",
        ms=5,
        failing=vocabulary.PREPROCESS_AUDIO,
        stages=stages,
        **more,
    )


def evidence(traces: Iterable[list[dict]], **more) -> Evidence:
    read = Read(traces=[Trace.of(one) for one in traces], pages=1)
    return Evidence(Window(BEGIN, BEGIN + LENGTH, "http://127.0.0.1:9411"), read, **more)


def findings(traces: Iterable[list[dict]], **more) -> list[Finding]:
    return examine(evidence(traces, **more))


def of(kind: str, found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.kind == kind]


def acts(found: list[Finding]) -> list[str]:
    return [finding.summary for finding in found if finding.severity == "act"]
