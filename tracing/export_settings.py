"""The settings of exporting kept traces, with their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from config.strict import StrictModel

#: Of each process's spool.
SPOOL_LIMIT_BYTES = 256_000_000


class Allow(StrictModel):
    """The words that may leave beyond `tracing.vocabulary`. Each entry promises that it holds no user's words."""

    span_names: frozenset[str] = frozenset()
    """Names of spans, for example the phases of an engine of your own."""
    routes: frozenset[str] = frozenset()
    """Route patterns that the ingress serves besides its own."""
    error_messages: tuple[str, ...] = ()
    """Messages that may stand in the tag `error`, as templates: `{}` is one number or one lower-case word
    (`"Audio sample rate {}Hz, minimum required {}Hz"`). Any other message is replaced by the error's type and code."""
    values: dict[str, frozenset[str]] = {}
    """Closed lists of values for some tags, narrower than their shape: `{"request.dialect": ["mandarin", …]}`."""


class SpanDestination(StrictModel):
    """The place to which one process sends its kept traces."""

    zipkin_url: str | None = None
    """Zipkin's base address, for example `http://127.0.0.1:9411`."""
    protocol: Literal["http", "grpc"] = "http"
    """Protocol of `zipkin_url`; `grpc` needs a Zipkin that was started with COLLECTOR_GRPC_ENABLED=true."""
    kafka: str | None = Field(default=None, pattern=r"^[^\s,:/]+:\d+(,[^\s,:/]+:\d+)*$")
    """Brokers (`host:port,host:port`) from which Zipkin reads; send there instead of to `zipkin_url`."""
    kafka_options: dict[str, str] = {}
    """Further settings of librdkafka, for example for TLS and SASL."""
    spool_dir: Path | None = None
    """Folder for traces that are not yet sent, shared by all ingress replicas of a machine. Without it they are only in
    memory, and a crash loses those that were not sent."""
    retry_most_s: float = Field(default=30.0, gt=0)
    """Longest pause between attempts while Zipkin fails."""

    @field_validator("zipkin_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.startswith(("http://", "https://")):
            raise ValueError("zipkin_url must begin with http:// or https://, for example http://127.0.0.1:9411")
        if url.rstrip("/").endswith("/api/v2/spans"):
            raise ValueError("zipkin_url is Zipkin's base address, without /api/v2/spans")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_destination(self) -> SpanDestination:
        if self.zipkin_url is not None and self.kafka is not None:
            raise ValueError("zipkin_url and kafka are two ways to the same place: give one, or every trace goes twice")
        return self


class ExportSettings(SpanDestination):
    """How one process exports its traces."""

    kafka_topic: str = "zipkin"
    """The topic that Zipkin reads."""
    file: Path | None = None
    """A JSON-lines file for places without Zipkin: one trace (a JSON list of spans) a line. Each line can be posted to
    Zipkin later as it is. Used if neither Zipkin nor Kafka is named."""
    spool_limit_bytes: int = Field(default=SPOOL_LIMIT_BYTES, ge=2**20)
    """The most that this process keeps on disk; beyond it the oldest traces go."""
    queue_limit: int = Field(default=2000, ge=1)
    """Traces kept in memory without a spool, or while its disk refuses; beyond it the oldest go."""
    batch_traces: int = Field(default=100, ge=1)
    """The most traces in one request to Zipkin."""
    linger_s: float = Field(default=0.2, ge=0)
    """How long a trace waits for others before it is sent."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Of one request to Zipkin."""
    retry_first_s: float = Field(default=0.5, gt=0)
    """The first pause after a failure; doubled from there to `retry_most_s`, with jitter."""
    adopt_every_s: float = Field(default=10.0, gt=0)
    """How often the exporter looks for spools of dead processes."""
    allow: Allow = Allow()
    """What redaction lets out beyond the vocabulary."""
