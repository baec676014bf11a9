"""What the answer to a canary request means."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import soundfile

SECONDS = (0.1, 30.0)  #: of speech that a few words can take
QUIET = 0.01  #: peak of what nobody would hear


class Outcome(StrEnum):
    OK = "ok"
    FAILED = "failed"  #: an answer that says that the service is ill
    WRONG = "wrong"  #: 200, and no speech in it
    SLOW = "slow"  #: good, but late
    SILENT = "silent"  #: no answer in time
    UNREACHABLE = "unreachable"  #: no connection, or one that broke
    BUSY = "busy"  #: at its limits, or stopping: no illness
    REFUSED = "refused"  #: our own fault: no key, or a request that is not taken


#: Of these nothing can be concluded.
NOTHING_SAID = frozenset({Outcome.BUSY, Outcome.REFUSED})


@dataclass(frozen=True)
class CanaryResult:
    """A canary that is over.

    `service` is whose fault it seems to be, None where the answer does not say. Times in ns since the epoch.
    """

    outcome: Outcome
    began_ns: int
    ended_ns: int
    service: str | None = None
    trace_id: str | None = None
    primary: bool = True  #: it went to the first engine

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


def judged(status: int, body: bytes, error: dict, services: Collection[str]) -> tuple[Outcome, str | None]:
    """Of an answer: what it means, and the service that it names. `error`: the body's, where it is one of ours.

    Our error messages name the service that failed, and nothing of a request.
    """
    if status == 200:
        return (Outcome.OK if _is_speech(body) else Outcome.WRONG), None
    kind, message = str(error.get("type", "")), str(error.get("message", ""))
    if status == 429 or kind == "overloaded":
        return Outcome.BUSY, None
    if status < 500:
        return Outcome.REFUSED, None
    named = [service for service in services if service in message]
    return Outcome.FAILED, named[0] if len(named) == 1 else None


def _is_speech(body: bytes) -> bool:
    try:
        samples, rate = soundfile.read(io.BytesIO(body), dtype="float32")
    except Exception:
        return False
    seconds = len(samples) / rate
    return SECONDS[0] <= seconds <= SECONDS[1] and bool(np.abs(samples).max() >= QUIET)
