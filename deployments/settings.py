"""Typed settings, strict at every level: a key that is not known is an error that names the nearest one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from access.required import keys_file_of
from access.settings import Access
from config.strict import StrictModel
from tracing.sampling import SamplingSettings
from voices.settings import VoiceSettings


class StageConfig(StrictModel):
    """What every stage replica is told. `engine_options` go to the engine as keyword arguments."""

    engine: str
    engine_options: dict = Field(default_factory=dict)
    device: str = "auto"  #: cuda where the replica was given one, else cpu
    threads: int = Field(1, ge=1)  #: torch threads; Ray would leave a fractional replica with one
    stuck_after_s: float = Field(5.0, gt=0)  #: with work, and without using any CPU: makes the replica unhealthy
    wedged_after_s: float | None = Field(None, gt=0)  #: a longer batch does too; default 120 on a CPU, 20 on a GPU


class BatchSettings(StrictModel):
    """A batching deployment's `user_config`: both may change while the replica runs."""

    max_batch_size: int | None = Field(None, ge=1, le=256)
    batch_wait_ms: float | None = Field(None, ge=0, le=10_000)


class Limits(StrictModel):
    """Admission, per ingress replica. The stages' `max_ongoing_requests` must not be below `max_in_flight`."""

    max_in_flight: int = Field(64, ge=1)  #: requests inside the graph
    max_waiting: int = Field(64, ge=0)  #: requests waiting to enter it; beyond that 503 with Retry-After
    max_wait_s: float = Field(10.0, gt=0)  #: longest wait to enter
    deadline_s: float = Field(60.0, gt=0)  #: from arrival to answer
    long_deadline_s: float = Field(600.0, gt=0)  #: the same for long_form, up to the end of its stream
    pieces_at_once: int = Field(4, ge=1)  #: of one long text, in the graph; they count as one request in flight


class Tracing(StrictModel):
    """What is kept of finished traces and where it goes. With no way out named, traces are counted and dropped."""

    zipkin_url: str | None = None  #: base URL of the server spans are sent to: http://127.0.0.1:9411
    zipkin_ui_url: str | None = None  #: base URL that people open, where it differs
    protocol: Literal["http", "grpc"] = "http"  #: how zipkin_url is spoken to
    kafka: str | None = None  #: brokers (host:port,host:port) that Zipkin reads from, instead of zipkin_url
    kafka_options: dict[str, str] = Field(default_factory=dict)  #: further settings of librdkafka
    spans_file: str | None = None  #: JSON lines, where no Zipkin can be had
    spool_dir: str | None = None  #: kept traces are appended here before the answer leaves
    spool_limit_mb: float = Field(256.0, ge=2, le=1e6)  #: of each ingress process; beyond it the oldest traces go
    retry_most_s: float = Field(30.0, gt=0)  #: longest pause between attempts while Zipkin fails
    sampling: SamplingSettings = SamplingSettings()  #: what is kept: see tracing/sampling.py
    keys_file: str | None = None  #: the older place of access.keys_file, where that is not set
    secret_file: str | None = None  #: at least 32 random bytes; without it no user.hash leaves, and no salt is used

    def trace_url(self, trace_id: str) -> str | None:
        base = self.zipkin_ui_url or self.zipkin_url
        return f"{base.rstrip('/')}/zipkin/traces/{trace_id}" if base else None


class LiveTracing(StrictModel):
    """The part of cosyvoice3-api's `user_config` that is the keeper's: changes by a redeploy that restarts nothing."""

    tracing: bool = True  #: False: requests have ids but no spans, also those that fail; they are counted
    sampling_ratio: float | None = Field(None, ge=0, le=1)  #: in place of the one in `tracing.sampling`


#: Megabytes (10**6 bytes) of kept voices in each ingress replica; 0 is off. CosyVoice3's take 162 kB each.
VoiceCacheMb = Annotated[float, Field(ge=0, le=100_000)]


class LiveApi(LiveTracing):
    """cosyvoice3-api's whole `user_config`."""

    metrics: bool = True  #: False: what requests were is not counted, and each metric stays as it is
    voice_cache_mb: VoiceCacheMb | None = None  #: in place of the application's


class FallbackEngine(StrictModel):
    """Another engine, which speaks while the watchdog finds that the graph's own doesn't."""

    engine: str
    engine_options: dict = Field(default_factory=dict)
    device: str = "auto"
    threads: int = Field(1, ge=1)  #: torch threads of each of its stages


class AccessConfig(StrictModel):
    """What the graph's config and the ingress's have in common: who may come in."""

    tracing: Tracing = Tracing()
    access: Access = Access()

    @model_validator(mode="after")
    def _one_key_file(self) -> AccessConfig:
        keys_file_of(self.access, self.tracing.keys_file)
        return self

    @property
    def keys_file(self) -> str | None:
        return keys_file_of(self.access, self.tracing.keys_file)

    @property
    def limits_callers(self) -> bool:
        """Whether there may be limits: keys can be given some while the graph serves."""
        return self.keys_file is not None or self.access.default_limits.limited


class ApiConfig(AccessConfig):
    engine: str
    engine_options: dict = Field(default_factory=dict)
    fallback: FallbackEngine | None = None
    limits: Limits = Limits()
    voice_cache_mb: VoiceCacheMb = 0.0
    voices: VoiceSettings = VoiceSettings()  #: where stored voices lie
    cosyvoice_dialect: str | None = None  #: for CosyVoice's own paths, whose clients can't name one
    dialects: tuple[dict[str, str], ...] = ()  #: more dialects: code, name, english_name, language, tag
