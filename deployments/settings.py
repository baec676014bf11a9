"""The settings of the graph and its services, with all their defaults (docs/configuration.md shows them)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from access.required import keys_file_of
from access.settings import Access
from config.strict import StrictModel
from engines import contract
from speech.dialects import DIALECTS, Registry
from speech.mark import MAX_PRODUCER
from tracing.export_settings import SPOOL_LIMIT_BYTES, Allow, ExportSettings, SpanDestination
from tracing.sampling import SamplingSettings
from voices.settings import VoiceSettings, protocol_of

Watermarking = Literal["off", "perth"]
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:-]+")


class EngineSettings(StrictModel):
    """The engine that speaks."""

    engine: str
    """Name of the engine: embedded, cosyvoice3 or simulated."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the engine; each engine documents its own."""


class ComputeOptions(StrictModel):
    """The resources of a stage's replica."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: cuda if Ray gave the replica a GPU, else cpu."""
    threads: int = Field(default=1, ge=1)
    """Torch threads. Ray would leave a replica with a fraction of a CPU with one."""


class StageOptions(ComputeOptions):
    """The options of one stage."""

    stuck_after_s: float = Field(default=5.0, gt=0)
    """Seconds with work, and without any use of CPU, after which a replica is unhealthy."""
    wedged_after_s: float | None = Field(default=None, gt=0)
    """Seconds after which a running batch makes the replica unhealthy. Default: 120 on a CPU, 20 on a GPU."""


class StageConfig(EngineSettings, StageOptions):
    """The configuration of a stage's replica. `watermark` is `marking.watermark`, for vocoder-service."""

    watermark: Watermarking = "off"


class FittingOptions(StageOptions):
    """The options of fitting-service, which runs where the engine fits voices and voices are stored."""

    enabled: bool = True
    """False: no voice is fitted. Voices that are fitted already stay so."""
    nice: int = Field(default=19, ge=0, le=19)
    """Niceness of the thread that computes: at 19 it gets the CPU time that requests leave (on Linux by SCHED_IDLE). 0
    is none."""
    wedged_after_s: float | None = Field(default=1800.0, gt=0)
    """Seconds after which a step of a fit makes the replica unhealthy. Beside a full load a step may honestly take
    minutes."""
    stuck_after_s: float = Field(default=60.0, gt=0)
    """Seconds of a step without any use of CPU after which a replica is unhealthy."""


class FallbackEngine(EngineSettings, ComputeOptions):
    """Another engine, which speaks while the watchdog finds that the graph's own engine fails."""


class BatchSettings(StrictModel):
    """Batching of one service. Both settings may change while the replica runs; without a key its value stays."""

    max_batch_size: int = Field(default=8, ge=1, le=256)
    """The most requests in one batch. vocoder-service: 1, because on a CPU a batch takes longer than its members."""
    batch_wait_ms: float = Field(default=200.0, ge=0, le=10_000)
    """The longest wait of a batch for more requests, in milliseconds. vocoder-service: 0."""

    def given(self) -> dict[str, Any]:
        """Only the values that were given."""
        return self.model_dump(exclude_unset=True)


#: The values with which batching services start.
BATCHING = BatchSettings()
VOCODER_BATCHING = BatchSettings(max_batch_size=1, batch_wait_ms=0.0)


class SessionLimits(StrictModel):
    """Limits of WebSocket sessions (docs/live.md), in each ingress replica."""

    max_open: int = Field(default=256, ge=0)
    """Sessions at a time; 0 takes none. The ingress's `max_ongoing_requests` must stay above it: each is one."""
    max_open_per_caller: int = Field(default=128, ge=1)
    """Sessions of one caller at a time."""
    config_timeout_s: float = Field(default=10.0, gt=0)
    """Longest wait for the first `session.config`."""
    idle_timeout_s: float = Field(default=60.0, gt=0)
    """Longest time without a message of the client's while nothing is being spoken."""
    max_duration_s: float = Field(default=3600.0, gt=0)
    """Longest life of a session, in seconds."""
    stall_timeout_s: float = Field(default=30.0, gt=0)
    """Longest time in which a client takes nothing of the audio that waits for it."""
    max_unspoken: int = Field(default=10_000, ge=100)
    """Characters that wait to be spoken; beyond that no more messages are read until some are."""


class Limits(StrictModel):
    """Admission of each ingress replica. A stage's `max_ongoing_requests` must not be below `max_in_flight`."""

    max_in_flight: int = Field(default=64, ge=1)
    """Requests inside the graph."""
    max_waiting: int = Field(default=64, ge=0)
    """Requests that wait to enter it; beyond that the answer is 503 with Retry-After."""
    max_wait_s: float = Field(default=10.0, gt=0)
    """Longest wait to enter, in seconds."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds from a request's arrival to its answer."""
    long_deadline_s: float = Field(default=600.0, gt=0)
    """The same with long_form, up to the end of the stream."""
    fit_deadline_s: float = Field(default=900.0, gt=0)
    """Longest wait for a voice's fit, with fit=wait; the other deadlines begin after it."""
    max_fit_waiting: int = Field(default=16, ge=0)
    """Requests that wait for a fit; beyond that the answer is 503. They are not in flight meanwhile."""
    pieces_at_once: int = Field(default=4, ge=1)
    """Pieces of one long text that are in the graph at a time. They count as one request in flight."""
    sessions: SessionLimits = SessionLimits()
    """Limits of WebSocket sessions."""
    batch_items_at_once: int = Field(default=8, ge=1)
    """Items of one batch (`/v1/audio/speech/batch`) that are spoken at a time. Each counts as a request in flight."""
    first_audio_hold_s: float = Field(default=1.0, ge=0)
    """Seconds by which a first sound may be put back, so that no listener of a stream runs dry (docs/streams.md). 0:
    never, and pieces go in the order of their requests."""


class Tracing(SpanDestination):
    """The export of finished traces. Without `zipkin_url`, `kafka` or `spans_file` traces are counted and dropped."""

    zipkin_ui_url: str | None = None
    """Zipkin's base address as people open it, if it differs from `zipkin_url`."""
    spans_file: Path | None = None
    """A JSON-lines file for places without Zipkin."""
    spool_limit_mb: float = Field(default=SPOOL_LIMIT_BYTES / 1e6, ge=2, le=1e6)
    """The most that each ingress process keeps on disk, in MB; beyond it the oldest traces go."""
    sampling: SamplingSettings = SamplingSettings()
    """Which traces are kept."""
    keys_file: str | None = None
    """The older setting for `access.keys_file`; used if that is not set."""
    secret_file: str | None = None
    """A file of at least 32 random bytes. Without it no user.hash is exported, and sampling has no salt."""

    def trace_url(self, trace_id: str) -> str | None:
        """The address at which people find a trace; None without Zipkin."""
        base = self.zipkin_ui_url or self.zipkin_url
        return f"{base.rstrip('/')}/zipkin/traces/{trace_id}" if base else None

    def export_settings(self, allow: Allow) -> ExportSettings:
        """The settings of the exporter.

        Args:
            allow: the words that may leave beyond the vocabulary.
        """
        shared = {name: getattr(self, name) for name in SpanDestination.model_fields}
        return ExportSettings(
            **shared, file=self.spans_file, spool_limit_bytes=int(self.spool_limit_mb * 1e6), allow=allow
        )


class LiveTracing(StrictModel):
    """The settings of tracing that may change while the ingress runs."""

    tracing: bool = True
    """False: requests have trace ids, but no spans, failed ones included. They are counted."""
    sampling_ratio: float | None = Field(default=None, ge=0, le=1)
    """Replaces `tracing.sampling.ratio`."""


VoiceCacheMb = Annotated[float, Field(ge=0, le=100_000)]


class LiveApi(LiveTracing):
    """Settings of the ingress that change without a restart."""

    metrics: bool = True
    """False: requests are not counted, and each metric keeps its value."""
    voice_cache_mb: VoiceCacheMb | None = None
    """Replaces the application's `voice_cache_mb`."""


class AccessConfig(StrictModel):
    """The settings by which callers are authorized."""

    tracing: Tracing = Tracing()
    """Export and sampling of traces."""
    access: Access = Access()
    """API keys and limits of callers."""

    @model_validator(mode="after")
    def _one_key_file(self) -> AccessConfig:
        keys_file_of(self.access, self.tracing.keys_file)
        return self

    @property
    def keys_file(self) -> str | None:
        """The path of the key file, by either of its two settings."""
        return keys_file_of(self.access, self.tracing.keys_file)

    @property
    def limits_callers(self) -> bool:
        """True if callers may have limits: keys can get some while the graph runs."""
        return self.keys_file is not None or self.access.default_limits.limited


class DialectSettings(StrictModel):
    """A dialect that you add to the registry."""

    code: str
    """The code that clients send: `zh-Wenzhou`."""
    name: str
    """The name as its speakers write it."""
    english_name: str
    """The name in English."""
    language: str
    """ISO 639-1 code of the language: `zh`."""
    tag: str
    """The value of `request.dialect` in traces: lower case, no blanks."""


class Aliases(StrictModel):
    """More names for the model and for stored voices, for clients that can't send another name. None by default."""

    models: tuple[str, ...] = ()
    """More names of the running engine's model: `[tts-1, tts-1-hd]`."""
    voices: dict[str, str] = Field(default_factory=dict)
    """Stored voices (name or id) by alias: `{alloy: anna}`. An alias comes before a stored voice of the same name."""


class Cors(StrictModel):
    """Cross-origin requests from web pages. Off by default."""

    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API from a browser: `[https://app.example.com]`, or `["*"]` for all."""
    max_age_s: int = Field(default=600, ge=0, le=86_400)
    """Seconds for which a browser may cache the answer to a preflight."""

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "an origin has a scheme, a host and perhaps a port, in lower case and without a path: "
                    "https://app.example.com, or '*' for all"
                )
        return origins


class Marking(StrictModel):
    """The marks that say that speech is synthetic (docs/marking.md). Every file that can hold one has one."""

    producer: str = Field(default="Cosygraph", min_length=1, max_length=MAX_PRODUCER)
    """Name or code of the provider of this service, as `ContentProducer` in the field `AIGC`: set your own."""

    watermark: Watermarking = "off"
    """`perth`: vocoder-service puts a watermark into the sound too. It needs requirements-watermark.txt."""

    @field_validator("watermark", mode="before")
    @classmethod
    def _is_text_in_yaml(cls, watermark: Any) -> Any:
        return "off" if watermark is False else watermark  # YAML 1.1 reads a bare `off` so

    @field_validator("producer")
    @classmethod
    def _says_something(cls, producer: str) -> str:
        if not producer.strip() or not producer.isprintable():
            raise ValueError("a producer is a name or a code on one line, and not blank")
        return producer


class ApiConfig(EngineSettings, AccessConfig):
    """The configuration of the ingress."""

    fallback: FallbackEngine | None = None
    """Another engine for times at which the first one fails."""
    limits: Limits = Limits()
    """Limits of requests and their deadlines."""
    voice_cache_mb: VoiceCacheMb = 0.0
    """Megabytes (10**6 bytes) of cached voices in each ingress replica; 0 is off. A CosyVoice3 voice takes 162 kB."""
    voices: VoiceSettings = VoiceSettings()
    """The store of voices."""
    cosyvoice_dialect: str | None = None
    """The dialect of requests at CosyVoice's own paths, whose clients can't name one."""
    dialects: tuple[DialectSettings, ...] = ()
    """More dialects."""

    aliases: Aliases = Aliases()
    """More names for the model and for stored voices."""
    cors: Cors = Cors()
    """Cross-origin requests from web pages."""
    marking: Marking = Marking()
    """Marks of synthetic speech."""
    web_page_url: str | None = None
    """Path or URL of the web page. A browser that asks for `/` is sent there; without it, to `/docs`."""

    @property
    def registry(self) -> Registry:
        """All dialects: those built in, and your own."""
        return DIALECTS.extended(dialect.model_dump() for dialect in self.dialects)


class FittingConfig(StageConfig, FittingOptions):
    """The configuration of a replica of fitting-service."""

    tracing: Tracing = Tracing()
    """Export of its traces; all of them are kept."""
    voices: VoiceSettings = VoiceSettings()
    """The store of voices."""


class GraphConfig(ApiConfig):
    """Everything that `graph:build` takes."""

    engine: str = "embedded"
    """Name of the engine: embedded, cosyvoice3 or simulated."""
    audio: StageOptions = StageOptions()
    """Options of audio-service."""
    embedding: StageOptions = StageOptions()
    """Options of embedding-service."""
    tts: StageOptions = StageOptions()
    """Options of tts-service."""
    vocoder: StageOptions = StageOptions()
    """Options of vocoder-service."""
    fitting: FittingOptions = FittingOptions()
    """Options of fitting-service."""

    def stage(self, options: StageOptions) -> StageConfig:
        """The configuration of one stage's replicas."""
        return StageConfig(
            engine=self.engine,
            engine_options=self.engine_options,
            watermark=self.marking.watermark,
            **options.model_dump(),
        )

    def fallback_stages(self) -> StageConfig:
        """The configuration of the replica that has all stages of the fallback engine; it is configured."""
        assert self.fallback is not None
        return StageConfig(watermark=self.marking.watermark, **self.fallback.model_dump())

    def fits(self) -> FittingConfig | None:
        """The configuration of fitting-service's replicas; None where no voices are fitted."""
        url = self.voices.url
        # A store in memory belongs to one process: another one would see none of its voices.
        if not self.fitting.enabled or url is None or protocol_of(url) == "memory":
            return None
        if not contract.create(self.engine, self.engine_options).capabilities.fits_voices:
            return None
        return FittingConfig(
            engine=self.engine,
            engine_options=self.engine_options,
            tracing=self.tracing,
            voices=self.voices,
            **self.fitting.model_dump(),
        )

    def api(self) -> ApiConfig:
        """The configuration of the ingress. It leaves the stages' options out: they must not restart the ingress."""
        return ApiConfig(**{name: getattr(self, name) for name in ApiConfig.model_fields})
