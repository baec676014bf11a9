"""Thousands of requests go through the graph, a twentieth of which fail in a random stage.

Zipkin has every error, whole, a tenth of the rest, and nothing else. Four thousand take under two minutes on two cores;
ten thousand are a soak.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import statistics
import time
from collections import Counter

import psutil
import pytest

from bench.measuring.load import Sample, closed_loop, multipart
from bench.measuring.memory import anonymous_bytes
from tests.helpers import keeping
from tests.helpers.serving import App, tone
from tracing.vocabulary import STAGES

ERRORS, RATIO, CLIENTS = 0.05, 0.1, 8
#: by the stage that is to fail: the field in which the simulated engine is told so
FAULTS = dict(
    zip(
        STAGES,
        (
            {"prompt_text": "fault:prepare"},
            {"prompt_text": "fault:encode"},
            {"text": "fault:generate"},
            {"text": "fault:vocode"},
        ),
        strict=True,
    )
)
#: How many are made, after how many memory is looked at, and by how many bytes a request it may grow from there. Memory
#: levels off after five thousand: 123 MiB after 2,000, 124.7 after 4,000 and 5,000, 125.5 after 10,000. So 4,000 tell
#: only whether the trace of each request stays (4 KB); 10,000 tell whether those of the kept ones do (0.6 KB).
RUNS = [
    pytest.param(4_000, 2_000, 4_096, marks=pytest.mark.proof),
    pytest.param(10_000, 5_000, 512, marks=pytest.mark.soak),
]
EVERY, WINDOW = 100, 5  #: a reading of memory for so many requests, and the median of so many readings


class Requests:
    """Number to request. Trace ids are the number's, so that the sampler's choice is the same in every run."""

    def __init__(self, app: App, count: int) -> None:
        self._chance = random.Random(7)
        self.failing = [self._chance.choice(STAGES) if self._chance.random() < ERRORS else None for _ in range(count)]
        self._bodies = {
            stage: multipart(
                f"127.0.0.1:{app.port}",
                {"text": "Hello", "dialect": "en-US"} | fields,
                tone(3, 16_000),
                path=f"/{app.name}/api/generate",
                headers={"b3": "%context%"},
            )
            for stage, fields in {None: {}, **FAULTS}.items()
        }

    @staticmethod
    def trace_id(number: int) -> str:
        return hashlib.blake2b(number.to_bytes(4, "big"), digest_size=16).hexdigest()

    def __call__(self, number: int) -> bytes:
        context = f"{self.trace_id(number)}-{number + 1:016x}"
        return self._bodies[self.failing[number]].replace(b"%context%", context.encode(), 1)


def set_ratio(app: App, ratio: float | None) -> None:
    def change(entry: dict) -> None:
        api = next(one for one in entry["deployments"] if one["name"] == "cosyvoice3-api")
        api["user_config"] = {} if ratio is None else {"sampling_ratio": ratio}

    app.redeploy(change)
    keeping.eventually(
        lambda: "x-trace-url" in app.post(headers={"b3": "463ac35c9f6413ad-a2fb4a1d1a96d312"}).headers,
        lambda kept: kept == (ratio is None),
    )  # an id that no tenth has


@pytest.fixture
def at_a_tenth(watched):
    watched.wait_ready()
    set_ratio(watched, RATIO)
    yield watched
    set_ratio(watched, None)


def whole(spans: list[dict], failing: str | None) -> bool:
    """The root and each stage up to the one that failed, which has `error` like the root, and no other."""
    reached = STAGES[: STAGES.index(failing) + 1] if failing else STAGES
    wanted = {"post /api/generate": bool(failing)} | {stage.lower(): stage == failing for stage in reached}
    return {span["name"]: "error" in span["tags"] for span in spans} == wanted and len(spans) == len(wanted)


@pytest.mark.parametrize(("count", "warm_up", "growth_bytes"), RUNS)
def test_every_error_and_a_tenth_of_the_rest(at_a_tenth, count, warm_up, growth_bytes):
    requests = Requests(at_a_tenth, count)
    # Serve calls a replica RUNNING again a moment after it has taken its new settings.
    [replica] = keeping.eventually(lambda: at_a_tenth.replicas("cosyvoice3-api"), lambda found: len(found) == 1)
    ingress, memory = psutil.Process(replica["pid"]), []

    def made(number: int) -> bytes:
        if number % EVERY == 0:
            memory.append(anonymous_bytes(ingress))
        return requests(number)

    samples: list[Sample] = asyncio.run(
        closed_loop("127.0.0.1", at_a_tenth.port, made, clients=CLIENTS, count=count, timeout_s=900)
    )
    statuses = {sample.trace_id: sample.status for sample in samples}
    ids = {requests.trace_id(number): failing for number, failing in enumerate(requests.failing)}
    assert statuses.keys() == ids.keys()
    assert {statuses[trace_id] for trace_id, failing in ids.items() if failing} == {500}
    assert {statuses[trace_id] for trace_id, failing in ids.items() if not failing} == {200}

    told = {sample.trace_id for sample in samples if sample.kept}
    reader = keeping.Reader(at_a_tenth.zipkin)
    found: dict[str, list[dict]] = {}
    end = time.monotonic() + 120
    while found.keys() != told and time.monotonic() < end:
        found = reader.whole(list(ids))
    assert found.keys() == told, "in Zipkin are the traces that the answers said are there, and no others"
    broken = [trace_id for trace_id, spans in found.items() if not whole(spans, ids[trace_id])]
    assert broken == [], (len(broken), found[broken[0]] if broken else None)

    failed = {trace_id for trace_id, failing in ids.items() if failing}
    assert failed <= found.keys() and len(failed) > 0.04 * count and len({ids[trace_id] for trace_id in failed}) == 4
    plain, drawn = count - len(failed), len(found) - len(failed)
    within = 2.576 * math.sqrt(plain * RATIO * (1 - RATIO))  # the binomial's 99 % interval
    ends = (warm_up // EVERY, len(memory))
    warm, last = (statistics.median(memory[end - WINDOW : end]) for end in ends)
    print(
        f"{len(failed)} errors, {drawn} of {plain} others kept (expected {plain * RATIO:.0f} ± {within:.0f}); "
        f"ingress {warm / 2**20:.1f} MiB after {warm_up}, then {last / 2**20:.1f} MiB"
    )
    assert abs(drawn - plain * RATIO) < within
    weights = Counter()
    for spans in found.values():
        weights[spans[0]["tags"]["sampling.reason"]] += float(spans[0]["tags"]["sampling.adjusted_count"])
    assert weights == {"error": len(failed), "ratio": 10 * drawn}
    assert last - warm < growth_bytes * (count - warm_up)
