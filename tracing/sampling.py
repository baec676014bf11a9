"""Tail sampling: keep or drop, decided once, by the ingress, over the finished trace.

A policy is a list of rules. A rule is plain data: a type, a share, and a reason. The first rule that applies decides,
so the order is the policy. Types that the OpenTelemetry Collector's `tail_sampling` processor has too have its names.
Its `string_attribute` is `principal` here, because the name of a user or a key is on no span. The standard order, as
`SamplingSettings(ratio=0.1)` makes it:

1. `caller_denied`: the caller's B3 said "not sampled". Binding: nothing is exported, but it is counted.
2. `caller_demanded`: "sampled" or "debug" from a trusted caller keeps the trace. From any other caller it falls through
   to the ratio, so that callers can't fill Zipkin from outside.
3. `status_code`: a span carries `error`.
4. `stream_gaps`: a stream's listener ran dry (`stream.continuous=false`).
5. `latency`: the request took longer than a threshold. Dialects and modes may have thresholds of their own.
6. `principal`: a named user or key made the request, for example a test account.
7. `w3c_unsampled`: W3C's `-00` takes no share of the ratio. It is advice only, so rules 3 to 6 come before it.
8. `probabilistic`: the rest, at a ratio.

    >>> from tracing.sampling import FinishedTrace, Sampler, SamplingSettings
    >>> sampler = Sampler(SamplingSettings(ratio=0.0))
    >>> sampler.decide(FinishedTrace("463ac35c9f6413ad48485a3953bb6124", duration_s=0.4))
    SamplingDecision(keep=False, reason='ratio', adjusted_count=0.0)
    >>> sampler.decide(FinishedTrace("463ac35c9f6413ad48485a3953bb6124", duration_s=0.4, failed=True))
    SamplingDecision(keep=True, reason='error', adjusted_count=1.0)

The ratio is decided by a hash of the trace id alone, so all processes decide alike. With a secret `salt`, callers that
choose their own trace ids can't choose kept ones. Rates computed from kept traces must weigh each with its adjusted
count: 10 for one kept at a tenth, 1 for one that was kept on purpose.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from config.strict import StrictModel
from tracing import vocabulary
from tracing.context import Incoming, SamplingState
from tracing.finished_span import FinishedSpan, TagValue

RuleType = Literal[
    "caller_denied",
    "caller_demanded",
    "status_code",
    "stream_gaps",
    "latency",
    "principal",
    "w3c_unsampled",
    "probabilistic",
]


class Rule(StrictModel):
    """One rule of the sampling policy."""

    type: RuleType
    """The traces it applies to; see tracing/sampling.py."""
    reason: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """The tag `sampling.reason`, and a counter."""
    ratio: float = Field(default=1.0, ge=0, le=1)
    """The share that is kept of the traces it applies to: 1 all, 0 none."""
    slower_than_s: float | None = Field(default=None, ge=0)
    """For `latency`: the threshold in seconds."""
    dialect: str | None = None
    """For `latency`: only requests of this dialect."""
    mode: str | None = None
    """For `latency`: only requests of this mode."""
    principals: frozenset[str] = frozenset()
    """For `principal`: names of users and keys."""


class Slow(StrictModel):
    """A latency threshold for one dialect, one mode, or both."""

    slower_than_s: float = Field(ge=0)
    """The threshold in seconds."""
    dialect: str | None = None
    """A value of the tag `request.dialect`."""
    mode: str | None = None
    """A value of the tag `request.mode`."""


class SamplingSettings(StrictModel):
    """The sampling policy: the finished traces that are kept."""

    ratio: float = Field(default=0.1, ge=0, le=1)
    """The share of unremarkable traces that is kept."""
    slower_than_s: float = Field(default=10.0, ge=0)
    """A trace that takes longer is kept."""
    slow: tuple[Slow, ...] = ()
    """Other thresholds for some dialects and modes; the first that fits a request replaces `slower_than_s` for it."""
    principals: frozenset[str] = frozenset()
    """Names of users and keys whose every trace is kept."""
    salt: str = Field(default="", max_length=64)
    """A secret that makes the ratio's choice unpredictable from outside; the same in every ingress."""
    rules: tuple[Rule, ...] | None = None
    """A policy of your own instead of the standard one."""

    def policy(self) -> tuple[Rule, ...]:
        """Return the rules in force, in order."""
        if self.rules is not None:
            return self.rules
        rules = [
            Rule(type="caller_denied", reason="caller_denied", ratio=0),
            Rule(type="caller_demanded", reason="caller_demanded"),
            Rule(type="status_code", reason="error"),
            Rule(type="stream_gaps", reason="stream_gaps"),
        ]
        rules += [Rule(type="latency", reason="slow", **threshold.model_dump()) for threshold in self.slow]
        rules.append(Rule(type="latency", reason="slow", slower_than_s=self.slower_than_s))
        if self.principals:
            rules.append(Rule(type="principal", reason="principal", principals=self.principals))
        rules.append(Rule(type="w3c_unsampled", reason="w3c_unsampled", ratio=0))
        rules.append(Rule(type="probabilistic", reason="ratio", ratio=self.ratio))
        return tuple(rules)


@dataclass(frozen=True)
class FinishedTrace:
    """The facts of a finished trace that rules look at.

    Attributes:
        trace_id: 32 hex digits.
        duration_s: The root span's duration.
        failed: A span carries the tag `error`.
        gaps: The root says that a stream was not continuous.
        incoming: The caller's headers.
        trusted: The caller may demand that its trace is kept.
        dialect: The root's `request.dialect`.
        mode: The root's `request.mode`.
        principals: The names of the user and the key. They are never exported.
    """

    trace_id: str
    duration_s: float = 0.0
    failed: bool = False
    gaps: bool = False
    incoming: Incoming = Incoming()
    trusted: bool = False
    dialect: str | None = None
    mode: str | None = None
    principals: frozenset[str] = frozenset()

    @classmethod
    def from_spans(
        cls,
        spans: Sequence[FinishedSpan],
        incoming: Incoming = Incoming(),
        *,
        trusted: bool = False,
        principals: frozenset[str] = frozenset(),
    ) -> FinishedTrace:
        """Read the facts off a whole trace.

        Args:
            spans: The root first, as `Span.end` of the root gives it.
            incoming: The caller's headers.
            trusted: The caller may demand that its trace is kept.
            principals: The names of the user and the key.
        """
        root = spans[0]
        return cls(
            trace_id=f"{root.trace_id:032x}",
            # An utterance of a session lasts as long as its text is written: that says nothing of the graph.
            duration_s=0.0 if vocabulary.SESSION_ID in root.tags else root.seconds,
            failed=any(span.failed for span in spans),
            gaps=root.tags.get(vocabulary.STREAM_CONTINUOUS) == "false",
            incoming=incoming,
            trusted=trusted,
            dialect=_word(root.tags.get(vocabulary.REQUEST_DIALECT)),
            mode=_word(root.tags.get(vocabulary.REQUEST_MODE)),
            principals=principals,
        )


@dataclass(frozen=True)
class SamplingDecision:
    """Keep or drop, and why.

    Attributes:
        keep: The trace is exported.
        reason: The reason of the rule that decided.
        adjusted_count: The number of requests that this trace stands for. 0 if it is dropped.
    """

    keep: bool
    reason: str
    adjusted_count: float

    def add_tags(self, spans: list[dict[str, Any]]) -> None:
        """Tag each encoded span with the reason and the adjusted count."""
        count = f"{self.adjusted_count:.3f}".rstrip("0").rstrip(".")
        for span in spans:
            span.setdefault("tags", {}).update(
                {vocabulary.SAMPLING_REASON: self.reason, vocabulary.SAMPLING_ADJUSTED_COUNT: count}
            )


class Sampler:
    """Applies the rules and counts the decisions. Any thread may call it."""

    def __init__(self, settings: SamplingSettings) -> None:
        self.configure(settings)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def configure(self, settings: SamplingSettings) -> None:
        """Use other rules from now on. The counters go on."""
        self._rules, self._salt = settings.policy(), settings.salt.encode()[:64]

    def decide(self, trace: FinishedTrace) -> SamplingDecision:
        """Decide by the first rule that applies, and count it. Without such a rule the trace is dropped."""
        decision = self._decide(trace)
        with self._lock:
            self._counts[f"{'kept' if decision.keep else 'dropped'}_{decision.reason}"] += 1
        return decision

    def would_keep(self, trace: FinishedTrace) -> bool:
        """Tell if a trace that isn't finished would be kept as it is now. Counts nothing.

        With the standard rules, True means that it is kept however it ends.
        """
        return self._decide(trace).keep

    def counters(self) -> dict[str, int]:
        """Return `kept_<reason>` and `dropped_<reason>`, in traces."""
        with self._lock:
            return dict(self._counts)

    def _decide(self, trace: FinishedTrace) -> SamplingDecision:
        threshold_found = False
        for rule in self._rules:
            if rule.type == "latency":
                # The first threshold that fits a request is the only one for it, kept by it or not.
                if threshold_found or not _fits(rule, trace):
                    continue
                threshold_found = True
            if _applies(rule, trace):
                keep = rule.ratio > 0 and self._share(trace.trace_id) < rule.ratio
                return SamplingDecision(keep, rule.reason, round(1 / rule.ratio, 6) if keep else 0.0)
        return SamplingDecision(False, "no_rule", 0.0)

    def _share(self, trace_id: str) -> float:
        """Map a trace id to [0, 1): the same in every process, evenly spread even over poor trace ids."""
        digest = hashlib.blake2b(trace_id.encode(), digest_size=8, key=self._salt).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53


def _word(value: TagValue | None) -> str | None:
    return None if value is None else str(value)


def _fits(rule: Rule, trace: FinishedTrace) -> bool:
    return rule.dialect in (None, trace.dialect) and rule.mode in (None, trace.mode)


def _applies(rule: Rule, trace: FinishedTrace) -> bool:
    state = trace.incoming.sampling_state
    match rule.type:
        case "caller_denied":
            return state is SamplingState.DENY
        case "caller_demanded":
            return trace.trusted and state in (SamplingState.ACCEPT, SamplingState.DEBUG)
        case "status_code":
            return trace.failed
        case "stream_gaps":
            return trace.gaps
        case "latency":
            return rule.slower_than_s is not None and trace.duration_s > rule.slower_than_s
        case "principal":
            return not rule.principals.isdisjoint(trace.principals)
        case "w3c_unsampled":
            return trace.incoming.w3c_unsampled
        case "probabilistic":
            return True
