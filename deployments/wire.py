"""What travels between replicas: small replies, and tickets for what is large (`deployments/arrays.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deployments.arrays import Parts
from speech.errors import SpeechError
from tracing import FinishedSpan

#: Names of two parts: the clip as it was sent, (n,) uint8, and the finished audio, (n,) int16 at the engine's rate.
UPLOAD = "upload"
PCM = "pcm"
#: Names of facts: the clip's tags in audio-service's reply, which engine (name, version) found the voice, how much
#: audio a mel makes, where in the utterance a chunk belongs (`engines.contract.MelChunk`), and a stream's `SoFar`.
CLIP = "clip"
ENGINE = "engine"
SECONDS = "seconds"
PART, FINAL, LAST = "part", "final", "last"
SO_FAR = "so_far"


@dataclass(frozen=True)
class Reply:
    """A stage's answer: its outcome or its error, and in any case the spans it finished."""

    spans: list[FinishedSpan]
    parts: Parts = field(default_factory=dict)  #: arrays by name, large ones as tickets
    facts: dict[str, Any] = field(default_factory=dict)  #: the few small values the next stage needs
    error: SpeechError | None = None
    input_lost: bool = False  #: an array that it was given a ticket for is gone; worth making again


@dataclass(frozen=True)
class SoFar:
    """What vocoder-service has done for a stream by now. Its replicas keep nothing between two chunks: this goes along
    from call to call, and the last one makes the one span that tells of all of them."""

    started_ns: int | None = None
    first_ns: int | None = None  #: when the first audio was ready
    reached: tuple | None = None  #: `MelChunk.reaches` of the last chunk
    given: int = 0  #: samples of the part under way that are given out
    chunks: int = 0
    queue_ms: float = 0.0
    wait_ms: float = 0.0
    compute_ms: float = 0.0
