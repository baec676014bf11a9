"""The result of a canary, read off the HTTP answer."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import soundfile

from speech.errors import SERVICE_HEADER, Overloaded

SPEECH_S = (0.1, 30.0)  #: the shortest and the longest speech that a few words can take
QUIET = 0.01  #: a peak below it is silence


class Outcome(StrEnum):
    """The outcome of a canary. The values stand in metrics and, after `canary_`, in traces."""

    OK = "ok"
    FAILED = "failed"  #: an answer that says that the service is broken
    WRONG = "wrong"  #: 200 without speech in it
    SLOW = "slow"  #: good, but late
    SILENT = "silent"  #: no answer in time
    UNREACHABLE = "unreachable"  #: no connection, or one that broke
    BUSY = "busy"  #: at its limits, or stopping: not broken
    REFUSED = "refused"  #: the watchdog's own fault: no key, or a request that is not taken


#: Outcomes that say nothing of the graph's health.
INCONCLUSIVE = frozenset({Outcome.BUSY, Outcome.REFUSED})


@dataclass(frozen=True)
class CanaryResult:
    """A finished canary.

    Attributes:
        outcome: How it ended.
        began_ns: Since the epoch.
        ended_ns: Since the epoch.
        service: The service at fault, by the answer. None if the answer names none.
        trace_id: The request's trace, if there was an answer.
    """

    outcome: Outcome
    began_ns: int
    ended_ns: int
    service: str | None = None
    trace_id: str | None = None

    @property
    def ok(self) -> bool:
        """True if it was answered with speech, in time."""
        return self.outcome is Outcome.OK


def classify(
    status: int, headers: Mapping[str, str], body: bytes, error_type: str, services: Collection[str]
) -> tuple[Outcome, str | None]:
    """Classify an answer.

    Args:
        status: The HTTP status.
        headers: With case-insensitive names. `X-Error-Service` names the service at fault; the ingress sets it from
            `SpeechError.service`.
        body: Of a 200, the audio file.
        error_type: `error.type` of the body, or "".
        services: The graph's services.

    Returns:
        The outcome, and the service at fault if the answer names one of `services`.
    """
    if status == 200:
        return (Outcome.OK if _is_speech(body) else Outcome.WRONG), None
    if status == 429 or error_type == Overloaded.type:
        return Outcome.BUSY, None
    if status < 500:
        return Outcome.REFUSED, None
    service = headers.get(SERVICE_HEADER)
    return Outcome.FAILED, service if service in services else None


def _is_speech(body: bytes) -> bool:
    try:
        samples, rate = soundfile.read(io.BytesIO(body), dtype="float32")
    except Exception:
        return False
    seconds = len(samples) / rate
    return SPEECH_S[0] <= seconds <= SPEECH_S[1] and bool(np.abs(samples).max() >= QUIET)
