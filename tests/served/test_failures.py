"""Stages that die, hang or are left alone: the client gets an answer, and the trace says which service it was."""

import asyncio
import concurrent.futures
import os
import signal
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import ray.exceptions

from deployments.ingress.context import RequestContext
from deployments.ingress.peer_clocks import PeerClocks
from deployments.ingress.stage_clients import StageClient
from deployments.ingress.stage_result import LocalInput, StageResult
from deployments.wire import StageReply
from speech.errors import StageUnavailable
from tests.helpers.serving import tone
from tracing import FinishedSpan, Tracer


def in_background(call) -> concurrent.futures.Future:
    return concurrent.futures.ThreadPoolExecutor(1).submit(call)


def by_service(spans):
    return {
        (
            span["kind"],
            span["localEndpoint"]["serviceName"] if span["kind"] == "SERVER" else span["remoteEndpoint"]["serviceName"],
        )
        for span in spans
    }


def stage_span(**tags: str) -> FinishedSpan:
    """A stage's span, as it rides on a reply."""
    return FinishedSpan(1, 2, 3, "SERVER", "GENERATE_MEL", 4, 5, "tts-service", None, None, tags, ())


@pytest.mark.proof
def test_an_8_khz_clip_is_answered_at_once_while_sixteen_wait_for_tts(slow):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(slow.post) for _ in range(16)]
        time.sleep(2)
        started = time.monotonic()
        answer = slow.post(clip=tone(rate=8000))
        took = time.monotonic() - started
        assert sum(not future.done() for future in waiting) >= 8, "the stage must still have a queue"
        assert answer.status_code == 400 and took < 1.0, took
        assert {future.result().status_code for future in waiting} == {200}


def test_a_replica_killed_in_mid_request_is_retried(slow):
    slow.wait_ready()
    request = in_background(slow.post)
    time.sleep(0.8)  # GENERATE_MEL takes 1.5 s
    for replica in slow.replicas("tts-service"):
        os.kill(replica["pid"], signal.SIGKILL)
    answer = request.result(timeout=60)
    assert answer.status_code == 200, answer.text
    spans = slow.trace(answer.headers["x-trace-id"], spans=6)
    lost = [span for span in spans if span["kind"] == "CLIENT"]
    assert [span["remoteEndpoint"]["serviceName"] for span in lost] == ["tts-service"]
    assert lost[0]["tags"]["error"] == "the replica died" and lost[0]["name"] == "generate_mel"
    assert ("SERVER", "tts-service") in by_service(spans) and ("SERVER", "vocoder-service") in by_service(spans)
    slow.wait_ready()


def test_a_hung_stage_is_a_504_at_the_deadline_that_names_it(fast):
    fast.wait_ready()
    [replica] = fast.replicas("vocoder-service")
    os.kill(replica["pid"], signal.SIGSTOP)
    try:
        started = time.monotonic()
        answer = fast.post()
        took = time.monotonic() - started
    finally:
        os.kill(replica["pid"], signal.SIGCONT)
    assert answer.status_code == 504 and answer.json()["error"]["type"] == "deadline_exceeded"
    assert answer.headers["x-error-service"] == "vocoder-service", "for the watchdog"
    assert 8.0 <= took < 9.5, "deadline of 8 s and 250 ms of grace"
    spans = fast.trace(answer.headers["x-trace-id"], spans=5)
    assert ("CLIENT", "vocoder-service") in by_service(spans)
    assert {
        ("SERVER", name) for name in ("cosyvoice3-api", "audio-service", "embedding-service", "tts-service")
    } <= by_service(spans)
    fast.wait_ready()


def test_a_client_that_leaves_leaves_a_whole_trace(slow):
    trace_id = os.urandom(16).hex()
    with pytest.raises(httpx.ReadTimeout):
        slow.post(headers={"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"}, timeout=0.9)
    spans = slow.trace(trace_id, spans=4)
    root = next(span for span in spans if span["name"] == "post /api/generate")
    assert root["tags"]["error.type"] == "cancelled" and root["tags"]["http.status_code"] == "499"
    assert ("CLIENT", "tts-service") in by_service(spans), "the stage that was cut off"


def test_a_stage_past_the_deadline_says_so_itself(ray_driver, fast):
    from ray import serve

    tracer = Tracer("cosyvoice3-api")
    root = tracer.server("POST /api/generate", parent=None)
    handle = serve.get_deployment_handle("audio-service", "fast")
    reply = handle.preprocess.remote(root.call_context(time.time_ns() - 1), np.zeros(0, np.uint8), None).result(
        timeout_s=10
    )
    assert reply.error.type == "deadline_exceeded" and reply.error.service == "audio-service"
    assert reply.spans[0].tags["error.type"] == "deadline_exceeded"


class Stub(StageClient):
    """A client whose remote call is a function of the test's."""

    stage, service = "GENERATE_MEL", "tts-service"
    clocks = PeerClocks("here")


def new_run() -> RequestContext:
    tracer = Tracer("cosyvoice3-api")
    now = time.time_ns()
    return RequestContext(tracer, tracer.server("POST /api/generate", parent=None, start_ns=now), 5.0, now)


def test_a_lost_array_is_made_again_by_the_stage_that_made_it():
    made, seen = [], []

    async def remake() -> StageResult:
        made.append(True)
        return StageResult("fresh", remake)

    async def send(call, given):
        seen.append((given, call.sent_ns))
        if given != "fresh":
            return StageReply([stage_span(error="lost")], error=StageUnavailable("lost"), input_lost=True)
        return StageReply([stage_span()], "mel")

    run = new_run()
    result = asyncio.run(Stub(None)._call(run, send, StageResult("lost", remake)))
    assert made == [True] and [given for given, _ in seen] == ["lost", "fresh"] and result.value == "mel"
    assert seen[0][1] < seen[1][1], "the second call says when it was sent itself"
    spans = run.finish(200)
    assert [span.tags for span in spans if span.name == "GENERATE_MEL"] == [{"error": "lost"}, {}]


def test_the_span_of_a_lost_call_names_its_replicas_node():
    actor, node = "ab" * 16, "cd" * 28
    listed = SimpleNamespace(curr_replicas={1: SimpleNamespace(actor_id=bytes.fromhex(actor), node_id=node)})
    handle = SimpleNamespace(_router=SimpleNamespace(_asyncio_router=SimpleNamespace(request_router=listed)))
    answers = iter(
        [ray.exceptions.ActorUnavailableError("gone", bytes.fromhex(actor)), StageReply([stage_span()], "mel")]
    )

    async def send(call, given):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    run = new_run()
    asyncio.run(Stub(handle)._call(run, send, LocalInput("x")))
    [lost] = [span for span in run.finish(200) if span.kind == "CLIENT"]
    assert lost.tags["error.node"] == node and lost.remote == "tts-service"


def test_a_stage_that_dies_late_is_tried_again_with_arrays_made_again():
    """They are kept for `HOLD_S`; whoever has worked for longer than that dies with nothing left to try again on."""
    answers = iter(
        [
            ray.exceptions.ActorDiedError(),
            StageReply([], error=StageUnavailable("lost"), input_lost=True),
            StageReply([stage_span()], "mel"),
        ]
    )

    async def remake() -> StageResult:
        return StageResult("fresh", remake)

    async def send(call, given):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        assert answer.error or given == "fresh"
        return answer

    assert asyncio.run(Stub(None)._call(new_run(), send, StageResult("lost", remake))).value == "mel"


def test_an_array_that_stays_lost_is_a_503():
    async def remake() -> StageResult:
        return StageResult("lost", remake)

    async def send(call, given):
        return StageReply([], error=StageUnavailable("lost"), input_lost=True)

    with pytest.raises(StageUnavailable, match="tts-service"):
        asyncio.run(Stub(None)._call(new_run(), send, StageResult("lost", remake)))


def test_a_stage_that_dies_twice_is_a_503_with_two_client_spans():
    async def send(call, given):
        raise ray.exceptions.ActorDiedError()

    run = new_run()
    with pytest.raises(StageUnavailable, match="tts-service") as caught:
        asyncio.run(Stub(None)._call(run, send, LocalInput("clip")))
    assert caught.value.status == 503 and caught.value.retry_after_s and caught.value.service == "tts-service"
    assert sum(span.kind == "CLIENT" for span in run.finish(200)) == 2


def test_a_defect_is_not_retried():
    calls = []

    async def send(call, given):
        calls.append(True)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Stub(None)._call(new_run(), send, LocalInput("clip")))
    assert calls == [True]
