"""What travels between replicas: small replies, and tickets for what is large (`deployments/arrays.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deployments.arrays import Parts
from speech.errors import SpeechError
from tracing import Record

#: Names of two parts, (n,) uint8: the clip as it was sent, the finished audio as it will be answered.
UPLOAD = "upload"
WAV = "wav"
#: Names of two facts: the clip's tags in audio-service's reply, and which engine (name, version) found the voice.
CLIP = "clip"
ENGINE = "engine"


@dataclass(frozen=True)
class Reply:
    """A stage's answer: its outcome or its error, and in any case the spans it finished."""

    spans: list[Record]
    parts: Parts = field(default_factory=dict)  #: arrays by name, large ones as tickets
    facts: dict[str, Any] = field(default_factory=dict)  #: the few small values the next stage needs
    error: SpeechError | None = None
    input_lost: bool = False  #: an array that it was given a ticket for is gone; worth making again
