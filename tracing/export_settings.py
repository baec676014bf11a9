"""The settings of exporting kept traces, with their defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from config.strict import StrictModel

#: Of each process's spool, for each destination.
SPOOL_LIMIT_BYTES = 256_000_000

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET_HEADER = re.compile(r"auth|key|token|secret|password|cookie|credential|team", re.IGNORECASE)
#: Attributes of a resource that the spans themselves give (tracing/otlp_attributes.py).
_RESOURCE_OF_SPANS = ("service.name", "service.instance.id", "service.version", "k8s.pod.name", "node.id")


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


class OtlpDestination(StrictModel):
    """A receiver of OTLP/HTTP: an OpenTelemetry Collector, Jaeger, Tempo, a vendor (docs/otlp.md)."""

    url: str
    """Its base address, for example `http://127.0.0.1:4318`. Spans are posted to `/v1/traces` below it."""
    headers: dict[str, Annotated[str, StringConstraints(pattern=r"^[ -~]*$")]] = {}
    """HTTP headers to send along, for example a tenant: `{X-Scope-OrgID: speech}`. No secrets: Ray's dashboard shows
    them."""
    headers_file: Path | None = None
    """A file with further headers, one `Name: value` a line, for those that hold a secret. It is read again when it
    changes."""
    ca_file: Path | None = None
    """A PEM file with the certificates to trust with `https`, instead of the usual authorities."""
    resource: dict[str, str] = {}
    """Attributes for the resource of every span, for example `{deployment.environment.name: production}`."""

    @field_validator("url")
    @classmethod
    def _base_address(cls, url: str) -> str:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("otlp.url must begin with http:// or https://, for example http://127.0.0.1:4318")
        if address.username or address.password:
            raise ValueError("otlp.url must not hold a user or a password: put an Authorization line into headers_file")
        if address.query or address.fragment:
            raise ValueError("otlp.url is a base address, without `?` and `#`; put keys into headers_file")
        if address.path.rstrip("/").endswith("/v1/traces"):
            raise ValueError("otlp.url is the receiver's base address, without /v1/traces")
        return url.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _no_secrets(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} in otlp.headers is no name of an HTTP header")
            if _SECRET_HEADER.search(name):
                raise ValueError(
                    f"{name} in otlp.headers looks like a secret, and Ray's dashboard shows these settings: put the "
                    f"line `{name}: …` into a file, and name it with headers_file"
                )
        return headers

    @field_validator("resource")
    @classmethod
    def _own_attributes(cls, resource: dict[str, str]) -> dict[str, str]:
        for name in resource:
            if name in _RESOURCE_OF_SPANS:
                raise ValueError(f"{name} in otlp.resource is told by the spans themselves: leave it out")
        return resource


class SpanDestination(StrictModel):
    """The places to which one process sends its kept traces: Zipkin, a receiver of OTLP, or both."""

    zipkin_url: str | None = None
    """Zipkin's base address, for example `http://127.0.0.1:9411`."""
    protocol: Literal["http", "grpc", "otlp"] = "http"
    """Protocol of `zipkin_url`; `grpc` needs a Zipkin that was started with COLLECTOR_GRPC_ENABLED=true, and `otlp` one
    with the module zipkin-otel. Any other receiver of OTLP is named with `otlp`."""
    otlp: OtlpDestination | None = None
    """A receiver of OTLP/HTTP that gets the same traces, beside Zipkin or instead of it."""
    kafka: str | None = Field(default=None, pattern=r"^[^\s,:/]+:\d+(,[^\s,:/]+:\d+)*$")
    """Brokers (`host:port,host:port`) from which Zipkin reads; send there instead of to `zipkin_url`."""
    kafka_options: dict[str, str] = {}
    """Further settings of librdkafka, for example for TLS and SASL."""
    spool_dir: Path | None = None
    """Folder for traces that are not yet sent, shared by all ingress replicas of a machine. Without it they are only in
    memory, and a crash loses those that were not sent."""
    retry_most_s: float = Field(default=30.0, gt=0)
    """Longest pause between attempts while a destination fails."""

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
        if self.protocol == "otlp" and self.zipkin_url is None:
            raise ValueError(
                "protocol: otlp is about zipkin_url, and there is none. A receiver of OTLP is named with "
                "`otlp: {url: …}`; leave protocol out"
            )
        if self.protocol == "otlp" and self.otlp is not None and self.otlp.url == self.zipkin_url:
            raise ValueError(
                "zipkin_url with protocol: otlp and otlp.url are the same address: give one, or every trace goes twice"
            )
        return self


class ExportSettings(SpanDestination):
    """How one process exports its traces."""

    kafka_topic: str = "zipkin"
    """The topic that Zipkin reads."""
    file: Path | None = None
    """A JSON-lines file for places without Zipkin: one trace (a JSON list of spans) a line. Each line can be posted to
    Zipkin later as it is. Used if neither Zipkin nor Kafka is named."""
    spool_limit_bytes: int = Field(default=SPOOL_LIMIT_BYTES, ge=2**20)
    """The most that this process keeps on disk for each destination; beyond it the oldest traces go."""
    queue_limit: int = Field(default=2000, ge=1)
    """Traces kept in memory without a spool, or while its disk refuses; beyond it the oldest go."""
    batch_traces: int = Field(default=100, ge=1)
    """The most traces in one request."""
    linger_s: float = Field(default=0.2, ge=0)
    """How long a trace waits for others before it is sent."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Of one request."""
    retry_first_s: float = Field(default=0.5, gt=0)
    """The first pause after a failure; doubled from there to `retry_most_s`, with jitter."""
    adopt_every_s: float = Field(default=10.0, gt=0)
    """How often the exporter looks for spools of dead processes."""
    allow: Allow = Allow()
    """What redaction lets out beyond the vocabulary."""
