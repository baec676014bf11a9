"""The replies of stages, as they travel between replicas: small values, and references to large arrays (`arrays.py`).

A `StageReply` is the envelope. The other classes are what each stage puts into it:

    PREPROCESS_AUDIO  ClipReply
    EXTRACT_SPEAKER   VoiceReply
    GENERATE_MEL      MelReply, or a stream of MelChunkReply, which may end with TextWanted
    VOCODE_WAV        AudioReply, or an AudioChunkReply for each chunk
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from deployments.arrays import Array, Packed, PackedArrays
from engines.contract import Reach, Said
from speech.errors import SpeechError
from speech.words import Timings
from tracing import FinishedSpan

T = TypeVar("T")


@dataclass(frozen=True)
class StageReply(Generic[T]):
    """Holds a stage's outcome or its error, and in any case the spans that the stage has finished.

    Attributes:
        spans: the stage's finished spans.
        value: the outcome; None where there is an error, and at the end of a stream.
        error: why there is no outcome.
        input_lost: an array that the stage was given a reference to is gone; the caller should make it again.
    """

    spans: list[FinishedSpan]
    value: T | None = None
    error: SpeechError | None = None
    input_lost: bool = False


@dataclass(frozen=True)
class ClipReply:
    """A checked and resampled reference clip.

    Attributes:
        views: mono float32 (n,) by sample rate in Hz.
        features: the engine's own arrays, by name.
        transcript: what is said in the clip, where known.
        tags: what the clip is like, as the span's tags say it.
    """

    views: Mapping[int, Packed]
    features: PackedArrays
    transcript: str | None
    tags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VoiceReply:
    """A speaker's voice.

    Attributes:
        arrays: the engine's arrays, by name.
        engine: name and version of the engine that found the voice; no other can use it.
    """

    arrays: PackedArrays
    engine: tuple[str, str]


@dataclass(frozen=True)
class MelReply:
    """Acoustic features of a whole utterance: the engine's arrays by name, and the seconds of audio they make.

    Attributes:
        timings: the times of its words, where the engine knows them.
        divisible: its sound can be made part by part.
    """

    arrays: PackedArrays
    seconds: float
    timings: Timings | None = None
    divisible: bool = False


@dataclass(frozen=True)
class MelChunkReply:
    """Acoustic features of the beginning of a part, or of a divisible mel, as `engines.contract.MelChunk` has them.

    Attributes:
        said: the tokens so far, with which another replica continues the same speech.
        timings: of a divisible mel: the times of its words, where the engine knows them.
    """

    arrays: PackedArrays
    seconds: float
    part: int
    final: bool
    last: bool
    said: Said = ()
    timings: Timings | None = None

    @property
    def reaches(self) -> Reach:
        """Return how far into the utterance this chunk goes: `MelChunk.reaches`."""
        return self.part, self.seconds, self.final


@dataclass(frozen=True)
class AudioReply:
    """Finished audio: int16 (n,) at the engine's sample rate.

    Attributes:
        timings: the times of its words, where they are known. The ingress reads no others: a stage that aligns audio
            and text would put its own here. They count from the first sample of the utterance's audio, also in the
            reply to a later chunk.
    """

    pcm: Packed
    seconds: float
    timings: Timings | None = field(default=None, kw_only=True)

    @property
    def complete(self) -> bool:
        """Nothing of the utterance, or of its present part, is to come."""
        return True


@dataclass(frozen=True)
class StreamState:
    """Says what vocoder-service has done for a stream so far.

    Its replicas keep nothing between two chunks. The state goes along from call to call, and the last call makes the
    one span for all of them.

    Attributes:
        started_ns: when the first call began, ns since the epoch.
        first_ns: when the first audio was ready.
        reached: `MelChunk.reaches` of the last chunk; beyond all where an earlier one brought the whole sound.
        given: samples of the present part that were given out.
        chunks: number of calls.
        queue_ms, wait_ms, compute_ms: sums over the calls, in milliseconds.
        kept: what the engine has to know of the present part's earlier chunks.
    """

    started_ns: int | None = None
    first_ns: int | None = None
    reached: Reach | None = None
    given: int = 0
    chunks: int = 0
    queue_ms: float = 0.0
    wait_ms: float = 0.0
    compute_ms: float = 0.0
    kept: Array | None = None


@dataclass(frozen=True)
class AudioChunkReply(AudioReply):
    """The audio that a chunk adds, maybe none, and the stream's new state."""

    state: StreamState = StreamState()

    @property
    def complete(self) -> bool:
        """Nothing of the present part is to come."""
        return self.state.reached is not None and self.state.reached[2]
