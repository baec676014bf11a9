"""Dialects that fail or slow down more than the rest, beyond chance.

All failures are kept, and a share of the successes: the number of successes is an estimate, and the interval of a
success share allows for that. A dialect is named if its interval and that of all others together do not overlap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from cluster.doctor.errors import short
from cluster.doctor.evidence import ENOUGH, Evidence
from cluster.doctor.figures import ms, percent, quantile, successes
from cluster.doctor.finding import Finding
from cluster.doctor.traces import Trace
from tracing import vocabulary

APART = 0.1  #: difference of success shares below which there is no finding
SLOWER = 1.5  #: times the others' median duration, and their median time for a character of text
FEWEST = 10  #: requests for a dialect below which there is no finding


def dialects(evidence: Evidence) -> list[Finding]:
    """Return a finding for each dialect that departs from the rest, or one that says that none does."""
    spoken = [trace for trace in evidence.requests if trace.tag(vocabulary.REQUEST_DIALECT) and not trace.cancelled]
    names = sorted({name for trace in spoken if (name := trace.tag(vocabulary.REQUEST_DIALECT))})
    if len(names) < 2:
        return []
    if not any(trace.by_ratio for trace in spoken):
        return [
            Finding(
                "dialect",
                "look",
                "success by dialect is not known: no trace was kept by the sampling ratio",
                advice="Keep a share of the good requests (`--sampling`, or user_config sampling_ratio).",
            )
        ]
    findings: list[Finding] = []
    for name in names:
        own = [trace for trace in spoken if trace.tag(vocabulary.REQUEST_DIALECT) == name]
        rest = [trace for trace in spoken if trace.tag(vocabulary.REQUEST_DIALECT) != name]
        findings += filter(None, (_success(name, own, rest, evidence), _duration(name, own, rest, evidence)))
    if not findings:
        findings = [
            Finding(
                "dialect",
                "fine",
                f"none of {len(names)} dialects departs from the rest",
                figures={"dialects": dict(Counter(trace.tag(vocabulary.REQUEST_DIALECT) for trace in spoken))},
            )
        ]
    return findings


def _success(name: str, own: list[Trace], rest: list[Trace], evidence: Evidence) -> Finding | None:
    weight = evidence.ratio_weight
    mine, others = _interval(own, weight), _interval(rest, weight)
    if mine is None or others is None or others[0] - mine[1] < 0 or others[1] - mine[1] < APART:
        return None
    failed = [trace for trace in own if not trace.ok]
    codes = Counter(
        trace.tag(vocabulary.ERROR_CODE) or trace.tag(vocabulary.ERROR_TYPE) or "unknown" for trace in failed
    )
    users = Counter(trace.user for trace in failed)
    [(code, most)], [(user, theirs)] = codes.most_common(1), users.most_common(1)
    one_caller = theirs >= 0.8 * len(failed) and user is not None
    detail = [
        f"{percent(most / len(failed))} of its {len(failed)} failures are {code}",
        f"{percent(theirs / len(failed))} of them are from {short(user)}",
        f"95 % intervals: {percent(mine[0])} to {percent(mine[1])}, others {percent(others[0])} to "
        f"{percent(others[1])}; by the kept traces' weights",
    ]
    ours = sum((trace.status or 500) >= 500 for trace in failed)
    return Finding(
        "dialect",
        "act" if ours >= len(failed) / 2 or not one_caller else "look",
        f"{name}: at most {percent(mine[1])} of its requests succeed, of the others at least {percent(others[0])}",
        detail,
        advice="The failures are one caller's, not the dialect's: see the `errors` findings."
        if one_caller
        else f"Send a request in {name} yourself, and look at the traces: most of them say {code}.",
        traces=evidence.window.link(f"{vocabulary.REQUEST_DIALECT}={name} and error", traces=len(failed)),
        figures={
            "dialect": name,
            "success": [round(bound, 4) for bound in mine],
            "others": [round(bound, 4) for bound in others],
            "failures": len(failed),
            "kept": len(own),
        },
    )


def _interval(traces: list[Trace], heaviest: float) -> tuple[float, float] | None:
    """Return the 95 % interval of the share of successes; None where too few requests are known."""
    good = [trace for trace in traces if trace.ok]
    failures = len(traces) - len(good)
    if len(traces) < FEWEST:
        return None
    low, high = successes([trace.weight for trace in good], heaviest, failures)
    # Traces kept for another reason (slow, a test account's) don't tell how many others there were.
    return low, high if any(trace.by_ratio for trace in good) or not good else 1.0


def _duration(name: str, own: list[Trace], rest: list[Trace], evidence: Evidence) -> Finding | None:
    mine, others = _good(own), _good(rest)
    if len(mine) < ENOUGH or len(others) < ENOUGH:
        return None

    def middle(traces: list[Trace], measure: Callable[[Trace], float]) -> float:
        return quantile([(measure(trace), trace.weight) for trace in traces], 0.5)

    took, usual = middle(mine, _took), middle(others, _took)
    if took < SLOWER * usual or middle(mine, _a_character) < SLOWER * middle(others, _a_character):
        return None
    return Finding(
        "dialect",
        "look",
        f"{name}: half of its good requests take {ms(took)} or longer, of the others {ms(usual)}, "
        "and its texts are not longer",
        [f"{len(mine)} kept traces of it, {len(others)} of the others"],
        traces=evidence.window.link(f"{vocabulary.REQUEST_DIALECT}={name}", traces=len(own)),
        figures={"dialect": name, "p50_ms": round(took, 1), "others_p50_ms": round(usual, 1), "kept": len(mine)},
    )


def _good(traces: list[Trace]) -> list[Trace]:
    return [trace for trace in traces if trace.ok]


def _took(trace: Trace) -> float:
    return trace.request.duration_ms


def _a_character(trace: Trace) -> float:
    lengths = [length for span in (trace.request, *trace.stages) if (length := span.number(vocabulary.TEXT_LENGTH))]
    return trace.request.duration_ms / max(lengths, default=1.0)
