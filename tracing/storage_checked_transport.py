"""A look now and then at whether Zipkin could store what it took.

Zipkin accepts before it stores, over HTTP (202; its API says so) as over gRPC, and where its storage is down it forgets
what it took. Its `/health` knows, so batches are held in memory until a later look finds the storage up; a storage
found down makes Zipkin unavailable, and what was held goes out again afterwards. Zipkin merges spans that it gets twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import httpx

from tracing.transport import Rejected, Transport, Unavailable

log = logging.getLogger("tracing.export")

#: Between two looks while batches are sent; a storage's death is noticed at most this late.
LOOK_EVERY_S = 5.0
#: What is sent beyond it is preceded by a look.
HELD_BYTES = 16 * 2**20


class StorageCheckedTransport:
    """A transport to a Zipkin, whose word counts only once its storage was seen to be up.

    Args:
        transport: the way to that Zipkin.
        zipkin_url: base URL, no slash at its end; `/health` is below it. Proxies in the environment are ignored.
        clock: seconds, monotonic.
    """

    def __init__(
        self, transport: Transport, zipkin_url: str, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = transport.name
        self._transport = transport
        self._health_url = f"{zipkin_url}/health"
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 2.0)), trust_env=False, follow_redirects=False
        )
        self._clock = clock
        self._looked = clock()
        self._held: list[Sequence[bytes]] = []  # batches that were taken and are not known to be stored
        self._held_bytes = 0
        self._down = False

    def send(self, traces: Sequence[bytes]) -> None:
        if self._down or self._held_bytes > HELD_BYTES:
            self._confirm()
        self._transport.send(traces)
        if self._clock() - self._looked >= LOOK_EVERY_S:
            self._confirm()  # where it raises, these traces are still their sender's
        self._held.append(traces)
        self._held_bytes += sum(map(len, traces))

    def _confirm(self) -> None:
        """Raises Unavailable where Zipkin's storage is down; once it is up again, what was held goes out anew."""
        self._looked = self._clock()
        if not self._storage_is_up():
            self._down = True
            raise Unavailable("Zipkin's storage is down")
        while self._down and self._held:
            try:
                self._transport.send(self._held[0])
            except Rejected:  # it was taken before, as it is
                log.warning("Zipkin refuses %d traces that it took before its storage failed", len(self._held[0]))
            self._held.pop(0)
        self._down = False
        self._held.clear()
        self._held_bytes = 0

    def _storage_is_up(self) -> bool:
        """False only where Zipkin's own health page says that a storage is down, or hangs over it: a receiver without
        such a page (an OpenTelemetry collector, Jaeger), or with another part out of order, is none of our business."""
        try:
            found = self._client.get(self._health_url).json()
            parts = found["zipkin"]["details"]
            return not any("Storage" in name and part["status"] == "DOWN" for name, part in parts.items())
        except httpx.ReadTimeout:
            return False  # it took a batch a moment ago, so it is not Zipkin itself that hangs
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
            return True

    def close(self) -> list[bytes]:
        try:
            if self._held:
                self._confirm()
        except Unavailable:
            pass  # what it took is handed back
        self._client.close()
        self._transport.close()
        return [trace for traces in self._held for trace in traces]
