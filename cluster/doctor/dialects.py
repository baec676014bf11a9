"""Dialects whose success or time departs from the rest, where that can't be chance.

All failures are kept, and of the successes a part: how many there were is estimated, and the interval of a share is
wide enough for both. A dialect is named where its interval and that of all others together do not meet.
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

APART = 0.1  #: difference of success shares below which nothing is said
SLOWER = 1.5  #: times the others' middle duration, and their time for a character of text
FEWEST = 10  #: requests for a dialect, of those known, below which nothing is said


def dialects(evidence: Evidence) -> list[Finding]:
    spoken = [trace for trace in evidence.requests if trace.tag(vocabulary.REQUEST_DIALECT) and not trace.cancelled]
    names = sorted({trace.tag(vocabulary.REQUEST_DIALECT) for trace in spoken})
    if len(names) < 2:
        return []
    if not any(trace.by_ratio for trace in spoken):
        return [
            Finding(
                "dialect",
                "look",
                "success by dialect is not known: only traces that were kept on purpose are there",
                advice="Keep a share of the good ones (`--sampling`, or user_config sampling_ratio).",
            )
        ]
    found = []
    for name in names:
        own = [trace for trace in spoken if trace.tag(vocabulary.REQUEST_DIALECT) == name]
        rest = [trace for trace in spoken if trace.tag(vocabulary.REQUEST_DIALECT) != name]
        found += filter(None, (_success(name, own, rest, evidence), _duration(name, own, rest, evidence)))
    if not found:
        found = [
            Finding(
                "dialect",
                "fine",
                f"none of {len(names)} dialects departs from the rest",
                figures={"dialects": dict(Counter(trace.tag(vocabulary.REQUEST_DIALECT) for trace in spoken))},
            )
        ]
    return found


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
        advice="One caller fails, not the dialect: see `errors`."
        if one_caller
        else f"Speak something in {name} yourself, and look at the traces: {code} is what most of them say.",
        traces=evidence.window.link(f"{vocabulary.REQUEST_DIALECT}={name} and error"),
        figures={
            "dialect": name,
            "success": [round(bound, 4) for bound in mine],
            "others": [round(bound, 4) for bound in others],
            "failures": len(failed),
            "kept": len(own),
        },
    )


def _interval(traces: list[Trace], heaviest: float) -> tuple[float, float] | None:
    """Of the share of successes; None where too few are known."""
    good = [trace for trace in traces if trace.ok]
    failures = len(traces) - len(good)
    if len(traces) < FEWEST:
        return None
    low, high = successes([trace.weight for trace in good], heaviest, failures)
    # Those kept on purpose (slow ones, a test account's) stand for themselves, and say nothing of how many there were.
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
        traces=evidence.window.link(f"{vocabulary.REQUEST_DIALECT}={name}"),
        figures={"dialect": name, "p50_ms": round(took, 1), "others_p50_ms": round(usual, 1), "kept": len(mine)},
    )


def _good(traces: list[Trace]) -> list[Trace]:
    return [trace for trace in traces if trace.ok]


def _took(trace: Trace) -> float:
    return trace.root.duration_ms


def _a_character(trace: Trace) -> float:
    lengths = [length for span in (trace.root, *trace.stages) if (length := span.number(vocabulary.TEXT_LENGTH))]
    return trace.root.duration_ms / max(lengths, default=1.0)
