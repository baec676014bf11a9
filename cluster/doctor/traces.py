"""Traces as typed values, from Zipkin's v2 JSON. A value that a span lacks, or that is no number, is None."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from config import routes
from tracing import vocabulary

#: What asks for speech; other routes (health, pages, the voice store) are no part of any share here.
#: Without the WebSocket: an utterance lasts as long as its text is written, which says nothing of the graph.
SPEECH_ROUTES = routes.SPEECH - {routes.LIVE}
VOICE_STAGES = (vocabulary.PREPROCESS_AUDIO, vocabulary.EXTRACT_SPEAKER)
SPEECH_STAGES = (vocabulary.GENERATE_MEL, vocabulary.VOCODE_WAV)


@dataclass(frozen=True)
class Span:
    """One span. Times in milliseconds; `start_ms` since the epoch."""

    id: str
    parent: str | None
    kind: str | None
    name: str  #: in capitals where Zipkin has a stage's: Zipkin stores names in lower case
    service: str
    remote: str | None  #: the service that a CLIENT span speaks for
    start_ms: float
    duration_ms: float
    tags: Mapping[str, str]

    @classmethod
    def of(cls, span: Mapping) -> Span:
        return cls(
            span["id"],
            span.get("parentId"),
            span.get("kind"),
            (span.get("name") or "").upper(),
            (span.get("localEndpoint") or {}).get("serviceName") or "",
            (span.get("remoteEndpoint") or {}).get("serviceName"),
            (span.get("timestamp") or 0) / 1000,
            (span.get("duration") or 0) / 1000,
            span.get("tags") or {},
        )

    def number(self, tag: str) -> float | None:
        try:
            value = float(self.tags[tag])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) else None  # anybody may send Zipkin a span with `nan`

    def ms(self, tag: str) -> float:
        """Return a duration in ms; 0 where the span has none."""
        return self.number(tag) or 0.0

    @property
    def failed(self) -> bool:
        return vocabulary.ERROR in self.tags

    @property
    def is_request(self) -> bool:
        """True for the ingress's own span; spans above it are its caller's."""
        return self.service == vocabulary.INGRESS and self.kind == "SERVER"

    @property
    def device_is_cpu(self) -> bool:
        return self.tags.get(vocabulary.DEVICE, "").startswith("cpu")


@dataclass(frozen=True)
class Trace:
    """One trace, or one request's part of it."""

    id: str
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, spans: Iterable[Mapping]) -> Trace:
        spans = list(spans)
        seen: dict[tuple[str, str | None], Span] = {}
        for span in spans:  # a span that was sent twice counts once
            seen.setdefault((span["id"], span.get("kind")), Span.of(span))
        return cls(spans[0]["traceId"], tuple(seen.values()))

    @classmethod
    def requests(cls, spans: Iterable[Mapping]) -> list[Trace]:
        """Return a trace for each request in one of Zipkin's, which holds several if a caller made them in one trace.

        The graph's spans that are below none of the requests go to the first; the caller's own spans are left out.
        """
        whole = cls.of(spans)
        roots = [span for span in whole.spans if span.is_request]
        if len(roots) <= 1:
            return [whole]
        above = {span.id: span for span in whole.spans}
        of_root: dict[str, list[Span]] = {root.id: [root] for root in roots}
        for span in whole.spans:
            if not span.is_request and span.service in vocabulary.SERVICES:
                top = span
                for _ in whole.spans:  # so many steps at most: a loop of parents would never end
                    if top.is_request or top.parent not in above:
                        break
                    top = above[top.parent]
                of_root[top.id if top.is_request else roots[0].id].append(span)
        return [cls(whole.id, tuple(spans)) for spans in of_root.values()]

    @property
    def key(self) -> tuple[str, str | None]:
        return self.id, self.root.id if self.root is not None else None

    @cached_property
    def root(self) -> Span | None:
        """The ingress's span, which may be below a caller's."""
        return next((span for span in self.spans if span.is_request), None)

    @property
    def request(self) -> Span:
        """The ingress's span, of a trace that has one."""
        assert self.root is not None, f"trace {self.id} has no span of the ingress"
        return self.root

    @cached_property
    def stages(self) -> tuple[Span, ...]:
        """The stages' own spans; of a long text, or after a retry, several of a name."""
        return tuple(span for span in self.spans if span.kind == "SERVER" and span.name in vocabulary.STAGE_SERVICE)

    @cached_property
    def lost(self) -> tuple[Span, ...]:
        """The ingress's spans for stages that did not answer, except where the client left."""
        return tuple(
            span
            for span in self.spans
            if span.kind == "CLIENT"
            and span.failed
            and span.name in vocabulary.STAGE_SERVICE
            and span.tags.get(vocabulary.ERROR_TYPE) != "cancelled"
        )

    def tag(self, key: str) -> str | None:
        return self.root.tags.get(key) if self.root else None

    @property
    def weight(self) -> float:
        """The number of requests that the trace stands for: 10 if a tenth is kept and this one is kept by chance."""
        return max(1.0, (self.root and self.root.number(vocabulary.SAMPLING_ADJUSTED_COUNT)) or 1.0)

    @property
    def by_ratio(self) -> bool:
        """True if the sampling ratio kept it, by chance."""
        return self.tag(vocabulary.SAMPLING_REASON) in ("ratio", None)

    @property
    def status(self) -> int | None:
        text = self.tag(vocabulary.HTTP_STATUS_CODE)
        return int(text) if text and text.isdecimal() else None

    @property
    def ok(self) -> bool:
        return self.root is not None and not self.root.failed and (self.status or 0) < 400

    @property
    def cancelled(self) -> bool:
        return self.tag(vocabulary.ERROR_TYPE) == "cancelled"

    @property
    def is_speech(self) -> bool:
        return self.tag(vocabulary.HTTP_ROUTE) in SPEECH_ROUTES

    @property
    def user(self) -> str | None:
        return self.tag(vocabulary.USER_HASH)

    @property
    def failed_stage(self) -> Span | None:
        """The span of the last stage that failed: the stage's own, or the ingress's for it."""
        failed = [span for span in (*self.stages, *self.lost) if span.failed]
        return max(failed, key=lambda span: span.start_ms, default=None)
