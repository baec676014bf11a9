"""One thing that the doctor has to say."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

Kind = Literal["bottleneck", "batching", "queue", "errors", "dialect", "fallback", "watchdog", "traces", "sources"]
Severity = Literal["act", "look", "fine"]
ORDER: tuple[Severity, ...] = ("act", "look", "fine")


@dataclass(frozen=True)
class Change:
    """A deployment's `user_config` as it should be: only what differs."""

    deployment: str
    user_config: dict


@dataclass(frozen=True)
class Finding:
    """`act`: do something now. `look`: worth knowing, maybe nothing to do. `fine`: looked at, nothing wrong."""

    kind: Kind
    severity: Severity
    summary: str  #: one line, with figures
    detail: list[str] = field(default_factory=list)
    advice: str | None = None
    change: Change | None = None
    traces: str | None = None  #: link to exactly these traces in Zipkin's page
    figures: dict = field(default_factory=dict)

    def as_json(self) -> dict:
        return asdict(self)
