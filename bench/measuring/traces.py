"""Makes traces like the graph's without a graph, for measuring storages, and for the tests of ways to Zipkin.

Services, kinds, tags and annotations are those of a request on a GPU; times and values are drawn by the request's
number, so that the same number gives the same values.
"""

from __future__ import annotations

import random
import time

from tracing import Tracer, encode, vocabulary
from tracing.sampling import FinishedTrace, Sampler, SamplingSettings

MS = 1_000_000
PLAIN_SPANS = 5  #: spans of a request that succeeds: the ingress and four stages
DIALECTS = (("mandarin", "zh"), ("cantonese", "yue"), ("english-us", "en"), ("japanese", "ja"))


def request(number: int, *, start_ns: int | None = None, parent=None) -> list[dict]:
    """Make a request's trace with the tags that the graph sets.

    Every 10th request is refused at its first stage, every 25th fails in the third. Every 40th loses the fourth, for
    which the ingress records a CLIENT span.

    Args:
        number: the request's number.
        start_ns: nanoseconds since the epoch; None is two seconds ago.
        parent: a caller's span context, if the request came with one.
    """
    chance = random.Random(number)
    start = start_ns if start_ns is not None else time.time_ns() - 2000 * MS
    tracers = {
        service: Tracer(service, instance=f"{chance.getrandbits(32):08x}", ip="10.0.0.7")
        for service in vocabulary.SERVICES
    }
    root = tracers[vocabulary.INGRESS].server("POST /api/generate", parent=parent, start_ns=start)
    dialect, language = DIALECTS[number % len(DIALECTS)]
    root.tags(
        {
            vocabulary.HTTP_METHOD: "POST",
            vocabulary.HTTP_ROUTE: "/api/generate",
            vocabulary.REQUEST_DIALECT: dialect,
            vocabulary.REQUEST_DIALECT_SOURCE: "request",
            vocabulary.REQUEST_LANGUAGE: language,
            vocabulary.REQUEST_MODE: "fast",
            vocabulary.TEXT_LENGTH: chance.randint(5, 200),
            vocabulary.QUEUE_WAIT_MS: 0.02,
            vocabulary.VOICE_CACHE: "miss",
            vocabulary.USER_HASH: f"{chance.getrandbits(128):032x}",
        }
    )
    failing = {0: vocabulary.PREPROCESS_AUDIO}.get(number % 10) or {7: vocabulary.GENERATE_MEL}.get(number % 25)
    lost = vocabulary.VOCODE_WAV if number % 40 == 13 else None
    records, at, status = [], start + 3 * MS, 200
    for stage in vocabulary.STAGES:
        took = chance.randint(20, 400) * MS
        if stage == lost:
            span = tracers[vocabulary.INGRESS].client(
                stage, parent=root.context, start_ns=at, remote_service=vocabulary.STAGE_SERVICE[stage]
            )
            span.fail("stage_unavailable", status=503)
            status = 503
        else:
            span = _stage(tracers[vocabulary.STAGE_SERVICE[stage]], stage, root.context, at, took, chance)
            if stage == failing:
                status = 400 if stage == vocabulary.PREPROCESS_AUDIO else 500
                span.fail("input_validation" if status == 400 else "internal", status=status)
        records += span.end(at + took)
        at += took + MS
        if stage in (failing, lost):
            break
    root.tag(vocabulary.HTTP_STATUS_CODE, status)
    if status != 200:
        root.fail("input_validation" if status == 400 else "internal", status=status)
    records = root.end(at) + records
    trace = encode(records)
    _EVERYTHING.decide(FinishedTrace.from_spans(records)).add_tags(trace)
    return trace


_EVERYTHING = Sampler(SamplingSettings(ratio=1.0))


def _stage(tracer: Tracer, stage: str, parent, at: int, took: int, chance: random.Random):
    span = tracer.server(stage, parent=parent, start_ns=at)
    wait = chance.randint(100, 9000) / 1000
    span.tags(
        {
            vocabulary.STAGE: stage,
            vocabulary.DEVICE: "cuda:0",
            vocabulary.MODEL_NAME: "Fun-CosyVoice3-0.5B",
            vocabulary.MODEL_VERSION: "2512",
            vocabulary.QUEUE_WAIT_MS: wait,
            vocabulary.COMPUTE_MS: (took - 2 * MS) / MS,
        }
    )
    if stage == vocabulary.PREPROCESS_AUDIO:
        span.tags(
            {
                vocabulary.AUDIO_SAMPLE_RATE: 44100,
                vocabulary.AUDIO_FORMAT: "WAV",
                vocabulary.AUDIO_DURATION: chance.randint(3000, 15000) / 1000,
                vocabulary.AUDIO_CLIPPING: 0.0,
            }
        )
    else:
        span.tags(
            {
                vocabulary.BATCH_ID: f"{chance.getrandbits(64):016x}",
                vocabulary.BATCH_SIZE: chance.randint(1, 8),
                vocabulary.BATCH_WAIT_MS: wait,
                vocabulary.GPU_UTILIZATION: 0.63,
            }
        )
        span.annotate(vocabulary.BATCH_STARTED, at_ns=at + int(wait * MS))
    return span
