"""Keep or drop, over the finished trace."""

import math

import pytest
from pydantic import ValidationError

from tracing import FinishedSpan, Incoming, SamplingState, Tracer, encode, vocabulary
from tracing.redaction import Redaction
from tracing.sampling import FinishedTrace, Rule, Sampler, SamplingDecision, SamplingSettings

DENY, ACCEPT, DEBUG = (
    Incoming(sampling_state=d) for d in (SamplingState.DENY, SamplingState.ACCEPT, SamplingState.DEBUG)
)
W3C_UNSAMPLED = Incoming(w3c_unsampled=True)


def decide(settings: dict | None = None, **trace) -> SamplingDecision:
    return Sampler(SamplingSettings(**{"ratio": 0.0, **(settings or {})})).decide(FinishedTrace("a" * 32, **trace))


@pytest.mark.parametrize(
    "trace, keep, reason",
    [
        (dict(), False, "ratio"),
        (dict(incoming=DENY, failed=True, duration_s=99, trusted=True, principals={"test"}), False, "caller_denied"),
        (dict(incoming=ACCEPT, trusted=True), True, "caller_demanded"),
        (dict(incoming=DEBUG, trusted=True), True, "caller_demanded"),
        (dict(incoming=ACCEPT), False, "ratio"),
        (dict(incoming=DEBUG), False, "ratio"),
        (dict(incoming=DEBUG, failed=True), True, "error"),
        (dict(failed=True, duration_s=99), True, "error"),
        (dict(duration_s=10.0), False, "ratio"),
        (dict(gaps=True), True, "stream_gaps"),
        (dict(duration_s=10.001), True, "slow"),
        (dict(principals={"test", "x"}), True, "principal"),
        (dict(principals={"x"}), False, "ratio"),
        (dict(incoming=W3C_UNSAMPLED), False, "w3c_unsampled"),
        (dict(incoming=W3C_UNSAMPLED, failed=True), True, "error"),
        (dict(incoming=W3C_UNSAMPLED, duration_s=11), True, "slow"),
        (dict(incoming=W3C_UNSAMPLED, principals={"test"}), True, "principal"),
    ],
)
def test_the_first_rule_that_speaks_decides(trace, keep, reason):
    if "principals" in trace:
        trace["principals"] = frozenset(trace["principals"])
    verdict = decide({"principals": ["test"]}, **trace)
    assert verdict == SamplingDecision(keep, reason, 1.0 if keep else 0.0)


def test_w3c_unsampled_takes_no_share_even_at_full_ratio():
    assert not decide({"ratio": 1.0}, incoming=W3C_UNSAMPLED).keep
    assert decide({"ratio": 1.0}).keep


@pytest.mark.parametrize(
    "dialect, mode, duration_s, keep",
    [
        ("mandarin", "fast", 2.1, False),
        ("mandarin", "instruct", 2.1, False),
        ("sichuan", "fast", 2.1, True),
        ("sichuan", "instruct", 2.1, False),
        ("sichuan", "instruct", 5.1, True),
        ("sichuan", "instruct", 10.1, True),
        ("mandarin", "fast", 10.1, True),
        ("cantonese", "fast", 29.0, False),
        ("cantonese", "fast", 30.1, True),
    ],
)
def test_a_threshold_of_its_own_replaces_the_usual_one(dialect, mode, duration_s, keep):
    slow = [
        {"slower_than_s": 5, "dialect": "sichuan", "mode": "instruct"},
        {"slower_than_s": 2, "dialect": "sichuan"},
        {"slower_than_s": 30, "dialect": "cantonese"},
    ]
    assert decide({"slow": slow}, dialect=dialect, mode=mode, duration_s=duration_s).keep is keep


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
@pytest.mark.parametrize(
    "make_id",
    [
        lambda n: f"{n:032x}",
        lambda n: f"{n:016x}" + "0" * 16,
        lambda n: f"{n * 2**100:032x}",
    ],
    ids=["counting", "high half", "high bits"],
)
def test_the_ratio_holds_even_over_poor_trace_ids(ratio, make_id):
    sampler, n = Sampler(SamplingSettings(ratio=ratio)), 20_000
    kept = sum(sampler.decide(FinishedTrace(make_id(i))).keep for i in range(1, n + 1))
    assert abs(kept - n * ratio) < 4 * math.sqrt(n * ratio * (1 - ratio))


def test_every_process_decides_alike_and_a_larger_ratio_keeps_what_a_smaller_one_kept():
    ids = [f"{n:032x}" for n in range(5000)]
    kept = [
        {i for i in ids if Sampler(SamplingSettings(ratio=ratio)).decide(FinishedTrace(i)).keep}
        for ratio in (0.1, 0.1, 0.3)
    ]
    assert kept[0] == kept[1] and kept[0] < kept[2]
    salted = {i for i in ids if Sampler(SamplingSettings(ratio=0.1, salt="s")).decide(FinishedTrace(i)).keep}
    assert len(salted & kept[0]) < len(kept[0]) / 2, "a salt makes another choice"


def test_kept_by_ratio_stands_for_its_like():
    sampler = Sampler(SamplingSettings(ratio=0.15))
    kept = next(v for v in (sampler.decide(FinishedTrace(f"{n:032x}")) for n in range(1000)) if v.keep)
    assert kept == SamplingDecision(True, "ratio", pytest.approx(6.666667))


def test_every_verdict_is_counted():
    sampler = Sampler(SamplingSettings(ratio=0.0))
    for trace in (dict(failed=True), dict(failed=True), dict(incoming=DENY), dict()):
        sampler.decide(FinishedTrace("a" * 32, **trace))
    assert sampler.counters() == {"kept_error": 2, "dropped_caller_denied": 1, "dropped_ratio": 1}


def finished(fail: bool = False) -> list[FinishedSpan]:
    root = Tracer(vocabulary.INGRESS).server("POST /api/generate", parent=None, start_ns=1_000_000_000)
    root.tags({vocabulary.REQUEST_DIALECT: "sichuan", vocabulary.REQUEST_MODE: "fast"})
    stage = Tracer(vocabulary.TTS).server(vocabulary.GENERATE_MEL, parent=root.context, start_ns=1_000_000_000)
    if fail:
        stage.fail("internal")
    return root.end(3_500_000_000) + stage.end(2_000_000_000)


def test_a_finished_trace_is_read_off_its_spans():
    trace = FinishedTrace.from_spans(finished(), W3C_UNSAMPLED, trusted=True, principals=frozenset({"key1"}))
    assert (trace.duration_s, trace.failed, trace.dialect, trace.mode) == (2.5, False, "sichuan", "fast")
    assert (trace.incoming, trace.trusted, trace.principals) == (W3C_UNSAMPLED, True, {"key1"})
    assert FinishedTrace.from_spans(finished(fail=True)).failed, (
        "a stage's error is the trace's, though the root got over it"
    )


def test_the_verdict_is_on_every_span_and_may_leave():
    spans = encode(finished())
    SamplingDecision(True, "ratio", 1 / 0.15).add_tags(spans)
    stamps = [(s["tags"]["sampling.reason"], s["tags"]["sampling.adjusted_count"]) for s in spans]
    assert stamps == [("ratio", "6.667")] * 2
    assert Redaction().redact(spans) == (spans, 0)
    SamplingDecision(True, "error", 1.0).add_tags(spans)
    assert spans[0]["tags"]["sampling.adjusted_count"] == "1"
    SamplingDecision(True, "ratio", 10.0).add_tags(spans)
    assert spans[0]["tags"]["sampling.adjusted_count"] == "10"


def test_a_policy_of_ones_own():
    rules = [
        Rule(type="status_code", reason="half_of_errors", ratio=0.5),
        Rule(type="latency", reason="slow", slower_than_s=1),
    ]
    sampler = Sampler(SamplingSettings(rules=rules))
    kept = [sampler.decide(FinishedTrace(f"{n:032x}", failed=True)) for n in range(200)]
    assert {v.adjusted_count for v in kept} == {0.0, 2.0}
    assert sampler.decide(FinishedTrace("a" * 32)) == SamplingDecision(False, "no_rule", 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": 1.1},
        {"ratios": 1},
        {"slow": [{"dialect": "x"}]},
        {"rules": [{"type": "sometimes", "reason": "x"}]},
        {"rules": [{"type": "probabilistic", "reason": "Free text"}]},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        SamplingSettings(**wrong)
