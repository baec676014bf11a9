"""A finished span as plain values: quick to make, small to pickle.

Every request makes half a dozen of these in five processes. They travel to the ingress on the stages' replies. Only
the tenth that is kept is ever encoded for Zipkin (`tracing.encoding`), in the ingress.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from tracing import vocabulary

TagValue: TypeAlias = str | bool | int | float


class FinishedSpan(NamedTuple):
    """One finished span."""

    trace_id: int
    span_id: int
    parent_id: int  #: 0 for a root
    kind: str | None  #: SERVER, CLIENT; None for a phase inside a service
    name: str
    start_ns: int  #: since the epoch
    end_ns: int
    service: str
    ip: str | None  #: of the service's replica
    remote: str | None  #: the service that a CLIENT span speaks for
    tags: dict[str, TagValue]
    events: tuple[tuple[int, str], ...]  #: annotations: nanoseconds since the epoch, text

    @property
    def failed(self) -> bool:
        """True if the span carries the tag `error`."""
        return vocabulary.ERROR in self.tags

    @property
    def seconds(self) -> float:
        """The span's duration."""
        return (self.end_ns - self.start_ns) / 1e9

    def with_tags(self, tags: dict[str, TagValue]) -> FinishedSpan:
        """Return a copy with these tags added."""
        return self._replace(tags=self.tags | tags)
