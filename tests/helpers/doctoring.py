"""Traces as Zipkin answers them, built by hand for the doctor's tests: what a request was, in a line each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from cluster.doctor.evidence import Evidence
from cluster.doctor.examination import examine
from cluster.doctor.finding import Finding
from cluster.doctor.traces import Trace
from cluster.doctor.window import Window
from cluster.doctor.zipkin_reader import Read
from tracing import vocabulary as words

BEGIN, LENGTH = 1_790_000_000.0, 3600.0  #: seconds
ALICE, BOB = "a11ce0" * 5 + "ff", "b0b000" * 5 + "ee"
_ids = itertools.count(1)


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
    """One request's, `at` seconds after BEGIN. `failing`: the stage at which it ends with `error` and `code`; `lost`:
    one that does not answer. `stages`: what to change in a stage's tags; `ms` in it is its time."""
    number = next(_ids)
    trace, start = f"{number:032x}", int((BEGIN + at) * 1e6)
    sampling = {
        words.SAMPLING_REASON: "ratio" if status == 200 and not lost else "error",
        words.SAMPLING_ADJUSTED_COUNT: f"{weight:g}" if status == 200 and not lost else "1",
    }
    failed = {words.ERROR: error, words.ERROR_TYPE: error} if error else {}
    failed |= {words.ERROR_CODE: code} if code else {}

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

    spoken = {words.REQUEST_DIALECT: dialect, words.REQUEST_DIALECT_SOURCE: "request"} if dialect else {}
    root = span(
        "post /api/generate",
        "SERVER",
        words.INGRESS,
        start,
        ms,
        {
            words.HTTP_ROUTE: "/api/generate",
            words.HTTP_STATUS_CODE: status,
            words.USER_HASH: user,
            words.VOICE_CACHE: "miss",
            words.QUEUE_WAIT_MS: 0.1,
            **spoken,
            **failed,
            **tags,
        },
    )
    found = [root]
    if status in (401, 403) or dialect is None:
        return found
    for index, (stage, service) in enumerate(words.STAGE_SERVICE.items()):
        own = {words.QUEUE_WAIT_MS: 1, words.COMPUTE_MS: 50, words.DEVICE: "cpu", words.STAGE: stage}
        own |= (
            {words.AUDIO_SAMPLE_RATE: 16000}
            if stage == words.PREPROCESS_AUDIO
            else {words.BATCH_SIZE: 1, words.BATCH_WAIT_MS: 0, words.BATCH_ID: f"{next(_ids):016x}"}
        )
        own |= (stages or {}).get(stage, {})
        took = own.pop("ms", 50)
        at_us = start + index * 60_000
        if lost == stage:
            found.append(
                span(
                    stage,
                    "CLIENT",
                    words.INGRESS,
                    at_us,
                    took,
                    {words.ERROR: "the replica died", words.ERROR_TYPE: "stage_unavailable"},
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
    stages = {words.PREPROCESS_AUDIO: {words.AUDIO_SAMPLE_RATE: 8000}}
    return many(
        count,
        status=400,
        error="input_validation",
        code="sample_rate_too_low",
        ms=5,
        failing=words.PREPROCESS_AUDIO,
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
