"""The JSON answers of the API, as models from which OpenAPI is made."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from voices.record import PublicVoice


class _Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ErrorDetail(_Answer):
    """Cause and remedy of a failed request."""

    model_config = ConfigDict(extra="forbid")

    message: str
    """Cause and remedy."""
    type: str
    """The kind of error."""
    param: str | None
    """The field that caused it."""
    code: str | None
    """A finer reason below `type`."""


class ErrorBody(_Answer):
    """The body of every error."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorDetail


class TimedPhoneme(_Answer):
    """A phoneme and its time."""

    symbol: str
    start_s: float
    end_s: float


class TimedText(_Answer):
    """Something that was written, and when it is heard."""

    text: str
    start: int
    """Offset in the text, in code points."""
    end: int
    start_s: float
    """Seconds from the beginning of the audio."""
    end_s: float
    phonemes: list[TimedPhoneme] | None = None
    """With timestamps=phoneme."""


class TimedSpeech(_Answer):
    """A whole file with the times of what is said in it; the answer if timestamps are asked for without events."""

    audio: str
    """The file, in base64."""
    format: str
    media_type: str
    seconds: float
    timestamps: list[TimedText]


class Index(_Answer):
    """The paths of this server that a newcomer needs."""

    service: str
    version: str
    docs: str
    openapi: str
    health: str
    ready: str
    web_page: str | None = None
    """Absent where no web page is served."""


class Model(_Answer):
    """One model, as OpenAI's API shows it."""

    id: str
    object: Literal["model"]
    created: int
    """Seconds since the epoch."""
    owned_by: str


class ModelList(_Answer):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class EngineFacts(_Answer):
    """The running engine."""

    name: str
    version: str
    notice: str
    """What a user must know about the result."""
    modes: list[str]
    sample_rate: int
    """Hz."""
    reference_seconds: tuple[float, float]
    """Shortest and longest reference clip."""
    fits_voices: bool
    """True if stored voices can be fitted to their speakers."""
    mixes_voices: bool
    """True if stored voices can be mixed: `anna(2)+bob(1)`."""
    live_text: bool
    """True if a text can be said token by token while it comes (docs/live.md)."""
    timestamps: list[str]
    """What it can give times of: part, character, word, phoneme."""


class Usage(_Answer):
    """OpenAI's figures of an answer."""

    input_tokens: int
    """Characters of the text."""
    output_tokens: int
    """25 for each second of speech."""
    total_tokens: int


class BatchResult(_Answer):
    """The end of one item of a batch, with its audio or its error."""

    index: int
    """The item's place, from 0."""
    status: Literal["success", "error"]
    trace_id: str
    """The item's own trace."""
    trace_url: str | None = None
    """Address of the trace, if it is kept."""
    audio_data: str | None = None
    """The file in base64."""
    media_type: str | None = None
    seconds: float | None = None
    """Of speech."""
    timestamps: list[TimedText] | None = None
    """If they were asked for; seconds count from the beginning of the item's audio, offsets from that of its text."""
    usage: Usage | None = None
    aigc: str | None = None
    """The mark of synthetic speech, as in the header X-AIGC."""
    voice_fit: Literal["fitted", "steered"] | None = None
    """The stored voice that was used, where the engine fits voices."""
    error: str | None = None
    """Cause and remedy."""
    error_type: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    """The item's field that caused it."""
    status_code: int | None = None
    """The HTTP status that the item would have had by itself."""
    retry_after: int | None = None
    """Seconds."""


class SpeechBatch(_Answer):
    """The results of a batch, in the order of its items."""

    id: str
    results: list[BatchResult]
    total: int
    succeeded: int
    failed: int


class DialectEntry(_Answer):
    """One dialect of the registry."""

    code: str
    name: str
    english_name: str
    language: str
    tag: str
    """Value of `request.dialect` in traces."""
    supported: bool
    """True if the running engine can speak it."""


class Dialects(_Answer):
    """The running engine, and all dialects."""

    engine: EngineFacts
    languages: list[str]
    dialects: list[DialectEntry]


class Health(_Answer):
    """The ingress runs."""

    status: Literal["ok"]
    version: str


class Ready(_Answer):
    """Readiness of the services."""

    ready: bool
    draining: bool
    line: Literal["primary", "fallback"]
    """The engine in use."""
    stages: dict[str, bool]


class Metadata(_Answer):
    """The field `AIGC` of GB 45438-2025 in a file's metadata."""

    label: str
    """1: the content is synthetic."""
    content_producer: str
    """Name or code of the provider that made it."""
    produce_id: str
    """The provider's id of it; ours is the trace id."""
    content_propagator: str
    propagate_id: str


class FoundWatermark(_Answer):
    """The watermark in the sound."""

    found: bool
    confidence: float
    """How sure the detector is, 0 to 1."""


class Verification(_Answer):
    """The marks of synthetic speech in a file. A file without any may be synthetic all the same."""

    object: Literal["audio.verification"]
    marked: bool
    """True if there is any mark."""
    metadata: Metadata | None
    """The mark in the metadata; null if there is none."""
    watermark: FoundWatermark | None
    """Null where `marking.watermark` is off: none was looked for."""
    ours: bool
    """True if the metadata name the producer that this service is configured as."""
    trace_id: str | None
    """The trace of the request that made it; null if it is not ours."""
    trace_url: str | None
    """Where that trace is, if it was kept."""
    format: str
    """The container: wav, flac, ogg, mp3, m4a …"""
    seconds: float


class VoiceList(_Answer):
    """All stored voices, the oldest first."""

    object: Literal["list"]
    data: list[PublicVoice]


class VoiceDeleted(_Answer):
    """The id of a voice that is deleted."""

    id: str
    object: Literal["audio.voice.deleted"]
    deleted: bool
