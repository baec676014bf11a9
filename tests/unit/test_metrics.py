"""The metrics of a request and their labels: without Ray, into lists."""

from __future__ import annotations

import re
import time
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest

import tracing
from deployments.ingress import metrics
from deployments.ingress.context import RequestContext
from deployments.ingress.continuity import Continuity
from deployments.ingress.metrics import Metrics
from speech.dialects import DIALECTS
from speech.errors import Cancelled, InvalidInput, Overloaded, StageUnavailable
from tracing import NoOpTracer, Tracer, vocabulary

EXACT_EDGE = 10.0


class Kinds:
    """In the place of `ray.serve.metrics`: keeps what it is told, by the metric's name."""

    def __init__(self):
        self.seen: dict[str, list[tuple[float, dict]]] = {}
        self.keys: dict[str, tuple[str, ...]] = {}
        self.edges: dict[str, tuple[float, ...]] = {}

    def Histogram(self, name, description, boundaries, tag_keys):
        self.edges[name] = boundaries
        return self._made(name, tag_keys)

    def Counter(self, name, description, tag_keys):
        return self._made(name, tag_keys)

    Gauge = Counter

    def _made(self, name, tag_keys):
        self.keys[name] = tag_keys

        def take(value, tags):
            assert set(tags) == set(tag_keys) and all(type(tag) is str for tag in tags.values()), (name, tags)
            self.seen.setdefault(name, []).append((value, tags))

        return SimpleNamespace(observe=take, inc=take, set=take)


def told(error=None, status=200, dialect="mandarin", tracer=None, stages=(), kept=True, **about):
    """Return the metrics of a request that ends so."""
    kinds = Kinds()
    tracer = tracer or Tracer("cosyvoice3-api")
    run = RequestContext(tracer, tracer.server("POST /api/generate", parent=None), 5, time.time_ns() - 2_000_000_000)
    run.route, run.dialect, run.mode, run.error = "/api/generate", dialect, "fast", error
    for name, value in about.items():
        setattr(run, name, value)
    for name, fail, tags in stages:
        span = Tracer(vocabulary.STAGE_SERVICE[name]).server(name, parent=run.call_context())
        span.tags(tags)
        if fail:
            span.fail(*fail)
        run.add_spans(span.end())
    Metrics(DIALECTS, kinds).record(run, run.finish(status), status, kept)
    return kinds.seen


def test_a_good_request():
    tags = {
        vocabulary.QUEUE_WAIT_MS: 3.0,
        vocabulary.BATCH_WAIT_MS: 20.0,
        vocabulary.BATCH_SIZE: 3,
        vocabulary.GPU_UTILIZATION: 71,
    }
    seen = told(stages=[(vocabulary.GENERATE_MEL, None, tags)], audio_s=8.0)
    [(seconds, labels)] = seen["cosygraph_request_seconds"]
    assert 2.0 <= seconds < 3.0
    assert labels == {"route": "/api/generate", "dialect": "mandarin", "mode": "fast", "outcome": "ok"}
    assert seen["cosygraph_requests"] == [(1, labels | {"error_type": "none"})]
    [(stage_s, stage)] = seen["cosygraph_stage_seconds"]
    assert stage == {"stage": "GENERATE_MEL", "outcome": "ok"} and 0 < stage_s < 1
    mine = {"stage": "GENERATE_MEL"}
    assert seen["cosygraph_queue_wait_seconds"] == [(0.003, mine)]
    assert seen["cosygraph_batch_wait_seconds"] == [(0.02, mine)]
    assert seen["cosygraph_batch_size"] == [(3.0, mine)]
    assert seen["cosygraph_gpu_utilization"] == [(71.0, mine)]
    [(factor, answer)] = seen["cosygraph_real_time_factor"]
    assert factor == pytest.approx(seconds / 8) and answer == {"answer": "whole"}
    assert seen["cosygraph_spans"] == [(2, {"fate": "kept"})]


@pytest.mark.parametrize(
    "error, status, outcome, error_type",
    [
        (InvalidInput("No."), 400, "refused", "input_validation"),
        (Overloaded("No."), 503, "failed", "overloaded"),
        (StageUnavailable("No."), 200, "failed", "stage_unavailable"),  # a stream that broke off
        (Cancelled("Left."), 499, "cancelled", "cancelled"),
        (None, 500, "failed", "none"),
    ],
)
def test_how_a_request_ended(error, status, outcome, error_type):
    [(_, labels)] = told(error, status)["cosygraph_requests"]
    assert (labels["outcome"], labels["error_type"]) == (outcome, error_type)


@pytest.mark.parametrize(
    "kind, fail, outcome",
    [
        ("server", ("input_validation", "No.", 400), "refused"),
        ("server", ("deadline_exceeded", "Late.", 504), "failed"),
        ("server", ("internal", "Defect.", 500), "failed"),
        ("client", ("stage_unavailable", "Gone."), "lost"),
        ("client", ("deadline_exceeded", "No answer."), "lost"),
        ("client", ("cancelled", "Left."), "cancelled"),
    ],
)
def test_how_a_stage_ended(kind, fail, outcome):
    kinds, tracer = Kinds(), Tracer("cosyvoice3-api")
    run = RequestContext(tracer, tracer.server("POST /api/generate", parent=None), 5, time.time_ns())
    if kind == "client":
        run.record_lost_stage("VOCODE_WAV", "vocoder-service", time.time_ns(), *fail)
    else:
        span = tracer.server("VOCODE_WAV", parent=run.call_context())
        span.fail(*fail)
        run.add_spans(span.end())
    Metrics(DIALECTS, kinds).record(run, run.finish(500), 500, False)
    assert [labels for _, labels in kinds.seen["cosygraph_stage_seconds"]] == [
        {"stage": "VOCODE_WAV", "outcome": outcome}
    ]
    assert kinds.seen["cosygraph_spans"] == [(2, {"fate": "dropped"})]


def test_a_stream_and_a_known_voice():
    run = told(first_audio_s=0.14, streaming=True, audio_s=4.0)
    assert run["cosygraph_first_audio_seconds"] == [(0.14, {"dialect": "mandarin"})]
    assert run["cosygraph_real_time_factor"][0][1] == {"answer": "stream"}


def streamed(late_s: float) -> Continuity:
    """Return a stream of two parts of 1 s, the second so much too late."""
    now = [0.0]
    stream = Continuity(lambda: now[0])
    for at in (0.0, 1.0 + late_s):
        now[0] = at
        with stream.sending(1.0):
            pass
    return stream


@pytest.mark.parametrize("late_s, continuous", [(0.5, "false"), (-0.5, "true")])
def test_a_stream_is_counted_by_whether_its_listener_ran_dry(late_s, continuous):
    seen = told(streaming=True, continuity=streamed(late_s))
    assert seen["cosygraph_streams"] == [(1, {"continuous": continuous, "dialect": "mandarin"})]
    assert seen["cosygraph_stream_underrun_seconds"] == [(max(0.0, late_s), {"dialect": "mandarin"})]
    assert "cosygraph_streams" not in told(audio_s=2.0), "a whole file is no stream"


def test_a_request_without_spans_has_its_own_figures():
    seen = told(tracer=NoOpTracer(), kept=False, audio_s=2.0)
    assert set(seen) == {
        "cosygraph_request_seconds",
        "cosygraph_requests",
        "cosygraph_real_time_factor",
        "cosygraph_untraced_requests",
    }


def test_nothing_of_a_caller_becomes_a_label():
    for outside in ("no-such-dialect", "+8613800000000", None):
        [(_, labels)] = told(dialect=outside, mode=outside)["cosygraph_requests"]
        assert (labels["dialect"], labels["mode"]) == ("none", "none")
    [(_, labels)] = told(route=None)["cosygraph_requests"]
    assert labels["route"] == "none"


def test_there_is_an_edge_wherever_a_rule_has_its_threshold():
    kinds = Kinds()
    Metrics(DIALECTS, kinds)
    for name in ("cosygraph_request_seconds", "cosygraph_stage_seconds"):
        assert EXACT_EDGE in kinds.edges[name]
    assert all(list(edges) == sorted(set(edges)) and edges[0] > 0 for edges in kinds.edges.values())
    assert not {"deployment", "replica", "application"} & set(chain(*kinds.keys.values())), "those are Serve's"


def test_what_is_counted_elsewhere_is_told_as_it_grows():
    kinds = Kinds()
    counts = {"in_flight": 2, "waiting": 1, "export_zipkin_waiting": 4, "export_zipkin_dropped_spool_full": 3}
    counts |= {"export_otlp_waiting": 7, "export_dropped_closed": 1}
    ours = Metrics(DIALECTS, kinds)
    ours.poll(lambda: counts)
    ours.poll(lambda: counts)
    counts |= {"export_zipkin_dropped_spool_full": 5, "export_otlp_failed_batches": 1}
    ours.poll(lambda: counts)
    zipkin, otlp = {"destination": "zipkin"}, {"destination": "otlp"}
    assert kinds.seen["cosygraph_traces_lost"] == [
        (1, {"cause": "closed", "destination": "none"}),
        (3, {"cause": "spool_full", **zipkin}),
        (2, {"cause": "spool_full", **zipkin}),
    ]
    assert kinds.seen["cosygraph_trace_sending_failures"] == [(1, otlp)]
    assert kinds.seen["cosygraph_traces_waiting"] == [(4, zipkin), (7, otlp)] * 3


def test_every_loss_that_an_exporter_counts_is_told():
    """Each count that begins with `dropped_` is a cause of the metric, before the ways part or at one of them."""
    rooms = [Path(tracing.__file__).parent / name for name in ("exporter.py", "destination.py", "sender.py")]
    counted = set(re.findall(r'"dropped_(\w+)"', "".join(room.read_text() for room in rooms)))
    assert counted == {*metrics.LOSSES, *metrics.LOSSES_OF_ONE}


def test_a_metric_that_fails_costs_no_request_and_is_said_once(caplog):
    kinds = Kinds()

    def broken(*args):
        raise RuntimeError("no agent")

    kinds.Counter = lambda *args: SimpleNamespace(inc=broken)
    ours = Metrics(DIALECTS, kinds)
    tracer = Tracer("cosyvoice3-api")
    for _ in range(2):
        run = RequestContext(tracer, tracer.server("POST /api/generate", parent=None), 5, time.time_ns())
        ours.record(run, run.finish(200), 200, True)
        ours.poll(dict)
    assert len([entry for entry in caplog.records if "metric" in entry.message]) == 1


def test_ray_takes_them_as_they_are_meant():
    """The real instruments, outside a replica: names, edges and label keys are valid."""
    tracer = Tracer("cosyvoice3-api")
    run = RequestContext(tracer, tracer.server("POST /api/generate", parent=None), 5, time.time_ns())
    ours = Metrics(DIALECTS)
    ours.record(run, run.finish(200), 200, True)
    counts = {"in_flight": 0, "waiting": 0, "export_otlp_waiting": 0, "export_otlp_dropped_poison": 1}
    ours.poll(lambda: counts | {"export_otlp_failed_batches": 1, "export_dropped_closed": 1})
    assert ours._failures == 0
    assert metrics.ERROR_TYPES >= {"internal", "overloaded", "rate_limited", "voice_not_found"}


def test_switched_off_nothing_is_told_and_losses_are_told_later():
    kinds = Kinds()
    metrics = Metrics(DIALECTS, kinds)
    tracer = Tracer("cosyvoice3-api")
    run = RequestContext(tracer, tracer.server("POST /api/generate", parent=None), 5, time.time_ns())
    lost = {"export_zipkin_waiting": 1, "in_flight": 2, "waiting": 0, "export_zipkin_dropped_poison": 3}
    metrics.on = False
    metrics.record(run, run.finish(200), 200, True)
    metrics.poll(lambda: lost)
    assert not kinds.seen
    metrics.on = True
    metrics.poll(lambda: lost)
    assert kinds.seen["cosygraph_traces_lost"] == [(3, {"cause": "poison", "destination": "zipkin"})]
    metrics.record(run, run.finish(200), 200, True)
    assert len(kinds.seen["cosygraph_requests"]) == 1


def test_an_utterance_of_a_session_counts_and_its_duration_is_its_writers():
    seen = told(paced_by_text=True, streaming=True, audio_s=4.0, first_audio_s=0.3)
    assert [labels["outcome"] for _, labels in seen["cosygraph_requests"]] == ["ok"]
    assert [seconds for seconds, _ in seen["cosygraph_first_audio_seconds"]] == [0.3]
    assert "cosygraph_request_seconds" not in seen and "cosygraph_real_time_factor" not in seen
    cancelled = told(paced_by_text=True, cancelled=True)
    assert [labels["outcome"] for _, labels in cancelled["cosygraph_requests"]] == ["cancelled"]


def test_sessions_are_counted_by_what_ended_them():
    kinds = Kinds()
    polled = {"in_flight": 0, "waiting": 0, "sessions_open": 3, "sessions_ended_left": 2, "sessions_ended_stalled": 1}
    Metrics(DIALECTS, kinds).poll(lambda: polled)
    assert kinds.seen["cosygraph_sessions_open"] == [(3, {})]
    assert kinds.seen["cosygraph_sessions"] == [(2, {"reason": "left"}), (1, {"reason": "stalled"})]
