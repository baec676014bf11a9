"""Where kept traces go, and how much may wait on the way. All defaults of exporting in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Allow(BaseModel):
    """What may leave beyond `tracing.vocabulary`. Every entry is a promise that no user's words are in it.

    Attributes:
        span_names: for example the phases of an engine of one's own.
        routes: route patterns that the ingress serves besides the usual ones.
        error_messages: messages that may stand in the tag `error`, as templates in which `{}` stands for one number or
            one lower-case word (`"Audio sample rate {}Hz, minimum required {}Hz"`). Any other message is replaced by
            the error's type and code.
        values: closed lists for some tags, narrower than their shape: `{"request.dialect": ["mandarin", …]}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    span_names: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    error_messages: tuple[str, ...] = ()
    values: dict[str, frozenset[str]] = {}


class ExportSettings(BaseModel):
    """How one process exports its traces. Unknown keys are errors.

    Attributes:
        zipkin_url: Zipkin's base address (`http://127.0.0.1:9411`), or None.
        protocol: how Zipkin is spoken to; `grpc` needs a Zipkin started with COLLECTOR_GRPC_ENABLED=true.
        kafka: brokers (`host:port,host:port`) to send to instead of to Zipkin, which reads from them.
        kafka_topic: the topic that Zipkin reads.
        kafka_options: further settings of librdkafka, for example for TLS and SASL.
        file: JSON-lines file for places without Zipkin, one trace (a JSON list of spans) a line; each line can be
            posted to Zipkin later as it is. Used where neither Zipkin nor Kafka is named.
        spool_dir: folder for traces not yet sent, shared by all ingress replicas of a machine. None keeps them in
            memory alone: a crash then loses what wasn't sent.
        spool_limit_bytes: the most that this process keeps on disk; beyond it the oldest go.
        queue_limit: traces kept in memory when there is no spool, or its disk refuses; beyond it the oldest go.
        batch_traces: the most traces sent at once.
        linger_s: how long a trace waits for company before it is sent.
        timeout_s: for one request to Zipkin.
        retry_first_s, retry_most_s: the first and the longest pause after a failure; doubled in between, jittered.
        adopt_every_s: how often dead processes' spools are looked for.
        allow: what redaction lets out beyond the vocabulary.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    zipkin_url: str | None = None
    protocol: Literal["http", "grpc"] = "http"
    kafka: str | None = Field(None, pattern=r"^[^\s,:/]+:\d+(,[^\s,:/]+:\d+)*$")
    kafka_topic: str = "zipkin"
    kafka_options: dict[str, str] = {}
    file: Path | None = None
    spool_dir: Path | None = None
    spool_limit_bytes: int = Field(256 * 2**20, ge=2**20)
    queue_limit: int = Field(2000, ge=1)
    batch_traces: int = Field(100, ge=1)
    linger_s: float = Field(0.2, ge=0)
    timeout_s: float = Field(5.0, gt=0)
    retry_first_s: float = Field(0.5, gt=0)
    retry_most_s: float = Field(30.0, gt=0)
    adopt_every_s: float = Field(10.0, gt=0)
    allow: Allow = Allow()

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
    def _one_way(self) -> ExportSettings:
        if self.zipkin_url is not None and self.kafka is not None:
            raise ValueError("zipkin_url and kafka are two ways to the same place: give one, or every trace goes twice")
        return self
