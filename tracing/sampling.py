"""Keep or drop: decided once, by the ingress, over the finished trace.

A rule is plain data: a condition, what follows, and a reason. The first rule whose condition holds decides, so the
order is the policy. The standard order, as `SamplingSettings(ratio=0.1)` makes it:

1. `denied`: the caller's B3 said "not sampled". Binding; nothing is exported, but it is counted.
2. `demanded`: "sampled" or "debug" from a caller we trust is kept. Anyone else's falls through to the ratio, so that
   nobody can fill Zipkin from outside.
3. `failed`: a span of it carries `error`.
4. `slow`: the request took longer than a threshold, which may differ by dialect and mode.
5. `principal`: made by a named user or key, for example a test account.
6. `advised_against`: W3C's `-00` takes no share of the ratio. It is advice only: rules 3 to 5 come before it.
7. `any`: the rest, at a ratio.

    >>> from tracing.sampling import FinishedTrace, Sampler, SamplingSettings
    >>> sampler = Sampler(SamplingSettings(ratio=0.0))
    >>> sampler.decide(FinishedTrace("463ac35c9f6413ad48485a3953bb6124", duration_s=0.4))
    Verdict(keep=False, reason='ratio', adjusted_count=0.0)
    >>> sampler.decide(FinishedTrace("463ac35c9f6413ad48485a3953bb6124", duration_s=0.4, failed=True))
    Verdict(keep=True, reason='error', adjusted_count=1.0)

The ratio is decided by a hash of the trace id alone, so every process decides alike. With a secret `salt` a caller
who picks his own trace ids can't pick kept ones. Whoever computes rates from kept traces weighs each with its
adjusted count: 10 for one kept at a tenth, 1 for one that was kept on purpose.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tracing import vocabulary as words
from tracing.context import Incoming, SamplingState
from tracing.finished_span import FinishedSpan

Condition = Literal["denied", "demanded", "failed", "slow", "principal", "advised_against", "any"]


class Rule(BaseModel):
    """One line of the policy.

    Attributes:
        when: the condition, see the module's docstring.
        reason: becomes the tag `sampling.reason` and a counter.
        ratio: of the traces it speaks for, the share that is kept: 1 all, 0 none.
        slower_than_s: for `slow`, the threshold in seconds.
        dialect, mode: for `slow`, only requests of this dialect or mode.
        principals: for `principal`, names of users and keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: Condition
    reason: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    ratio: float = Field(1.0, ge=0, le=1)
    slower_than_s: float | None = Field(None, ge=0)
    dialect: str | None = None
    mode: str | None = None
    principals: frozenset[str] = frozenset()


class Slow(BaseModel):
    """A threshold of its own for a dialect, a mode, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slower_than_s: float = Field(ge=0)
    dialect: str | None = None
    mode: str | None = None


class SamplingSettings(BaseModel):
    """What is kept. Unknown keys are errors.

    Attributes:
        ratio: the share of unremarkable traces that is kept.
        slower_than_s: above it a trace is kept.
        slow: other thresholds for some dialects and modes (values of `request.dialect` and `request.mode`); the first
            that fits a request replaces `slower_than_s` for it.
        principals: names of users and keys whose every trace is kept.
        salt: secret that makes the ratio's choice unpredictable from outside; the same in every ingress.
        rules: a policy of one's own instead of the standard one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: float = Field(0.1, ge=0, le=1)
    slower_than_s: float = Field(10.0, ge=0)
    slow: tuple[Slow, ...] = ()
    principals: frozenset[str] = frozenset()
    salt: str = Field("", max_length=64)
    rules: tuple[Rule, ...] | None = None

    def policy(self) -> tuple[Rule, ...]:
        """The rules in force, in order."""
        if self.rules is not None:
            return self.rules
        rules = [
            Rule(when="denied", reason="caller_denied", ratio=0),
            Rule(when="demanded", reason="caller_demanded"),
            Rule(when="failed", reason="error"),
        ]
        rules += [Rule(when="slow", reason="slow", **threshold.model_dump()) for threshold in self.slow]
        rules.append(Rule(when="slow", reason="slow", slower_than_s=self.slower_than_s))
        if self.principals:
            rules.append(Rule(when="principal", reason="principal", principals=self.principals))
        rules.append(Rule(when="advised_against", reason="w3c_unsampled", ratio=0))
        rules.append(Rule(when="any", reason="ratio", ratio=self.ratio))
        return tuple(rules)


@dataclass(frozen=True)
class FinishedTrace:
    """What the rules look at.

    Attributes:
        duration_s: of the root span.
        failed: a span carries the tag `error`.
        incoming: what the caller's headers said.
        trusted: whether the caller may demand to be kept.
        principals: the user's and the key's names, never exported.
    """

    trace_id: str
    duration_s: float = 0.0
    failed: bool = False
    incoming: Incoming = Incoming()
    trusted: bool = False
    dialect: str | None = None
    mode: str | None = None
    principals: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        records: Sequence[FinishedSpan],
        incoming: Incoming = Incoming(),
        *,
        trusted: bool = False,
        principals: frozenset[str] = frozenset(),
    ) -> FinishedTrace:
        """From a whole trace, the root first (as `Span.records` of the root gives it)."""
        root = records[0]
        tags = root.tags
        return cls(
            trace_id=f"{root.trace_id:032x}",
            duration_s=root.seconds,
            failed=any(record.failed for record in records),
            incoming=incoming,
            trusted=trusted,
            dialect=tags.get(words.REQUEST_DIALECT),
            mode=tags.get(words.REQUEST_MODE),
            principals=principals,
        )


@dataclass(frozen=True)
class SamplingDecision:
    """Attributes:
    reason: of the rule that decided.
    adjusted_count: how many requests this trace stands for; 0 when it is dropped.
    """

    keep: bool
    reason: str
    adjusted_count: float

    def stamp(self, spans: list[dict]) -> None:
        """Writes why a trace was kept, and for how many it stands, on each of its spans."""
        count = f"{self.adjusted_count:.3f}".rstrip("0").rstrip(".")
        for span in spans:
            span.setdefault("tags", {}).update(
                {words.SAMPLING_REASON: self.reason, words.SAMPLING_ADJUSTED_COUNT: count}
            )


class Sampler:
    """Applies the rules and counts. Any thread may ask."""

    def __init__(self, settings: SamplingSettings) -> None:
        self.configure(settings)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def configure(self, settings: SamplingSettings) -> None:
        """Other rules from now on; the counters go on."""
        self._rules, self._salt = settings.policy(), settings.salt.encode()[:64]

    def decide(self, trace: FinishedTrace) -> SamplingDecision:
        """The first rule that speaks decides; where none does, the trace is dropped."""
        verdict = self._verdict(trace)
        with self._lock:
            self._counts[f"{'kept' if verdict.keep else 'dropped'}_{verdict.reason}"] += 1
        return verdict

    def foresee(self, trace: FinishedTrace) -> bool:
        """Whether this trace, which isn't finished, would be kept if it were; counts nothing. With the standard rules
        it is then kept however it ends."""
        return self._verdict(trace).keep

    def counters(self) -> dict[str, int]:
        """`kept_<reason>` and `dropped_<reason>`, in traces."""
        with self._lock:
            return dict(self._counts)

    def _verdict(self, trace: FinishedTrace) -> SamplingDecision:
        thresholds_passed = False
        for rule in self._rules:
            if rule.when == "slow":
                # The first threshold that fits a request is the one for it, kept by it or not.
                if thresholds_passed or not _concerns(rule, trace):
                    continue
                thresholds_passed = True
            if _holds(rule, trace):
                keep = rule.ratio > 0 and self._share(trace.trace_id) < rule.ratio
                return SamplingDecision(keep, rule.reason, round(1 / rule.ratio, 6) if keep else 0.0)
        return SamplingDecision(False, "no_rule", 0.0)

    def _share(self, trace_id: str) -> float:
        """A number in [0, 1), the same for the same trace everywhere, evenly spread even over poor trace ids."""
        digest = hashlib.blake2b(trace_id.encode(), digest_size=8, key=self._salt).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53


def _concerns(rule: Rule, trace: FinishedTrace) -> bool:
    return rule.dialect in (None, trace.dialect) and rule.mode in (None, trace.mode)


def _holds(rule: Rule, trace: FinishedTrace) -> bool:
    decision = trace.incoming.decision
    match rule.when:
        case "denied":
            return decision is SamplingState.DENY
        case "demanded":
            return trace.trusted and decision in (SamplingState.ACCEPT, SamplingState.DEBUG)
        case "failed":
            return trace.failed
        case "slow":
            return rule.slower_than_s is not None and trace.duration_s > rule.slower_than_s
        case "principal":
            return not rule.principals.isdisjoint(trace.principals)
        case "advised_against":
            return trace.incoming.w3c_unsampled
        case _:
            return True
