"""A finished span on its way home: plain values, quick to make and small to pickle.

Every request makes half a dozen of these in five processes; only the kept tenth is ever encoded for Zipkin
(`tracing.encoding`), in the ingress.
"""

from __future__ import annotations

from typing import NamedTuple

from tracing import vocabulary as words


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
    tags: dict[str, str | bool | int | float]
    events: tuple[tuple[int, str], ...]  #: moments (ns since the epoch) and their annotations

    @property
    def failed(self) -> bool:
        return words.ERROR in self.tags

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def tagged(self, more: dict[str, str | bool | int | float]) -> FinishedSpan:
        return self._replace(tags=self.tags | more)
