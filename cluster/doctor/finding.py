"""A finding: what is wrong, why, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

Kind = Literal[
    "bottleneck", "batching", "queue", "streams", "errors", "dialect", "fallback", "watchdog", "traces", "sources"
]
Severity = Literal["act", "look", "fine"]
ORDER: tuple[Severity, ...] = ("act", "look", "fine")


@dataclass(frozen=True)
class Change:
    """A change of a deployment's `user_config`: the values that differ."""

    deployment: str
    user_config: dict


@dataclass(frozen=True)
class Finding:
    """One finding. Its severity: `act` asks for action now, `look` is worth knowing, `fine` means nothing is wrong."""

    kind: Kind
    severity: Severity
    summary: str  #: one line, with figures
    detail: list[str] = field(default_factory=list)
    advice: str | None = None
    change: Change | None = None
    traces: str | None = None  #: address of a search in Zipkin's page that finds these traces
    figures: dict = field(default_factory=dict)

    def as_json(self) -> dict:
        return asdict(self)
