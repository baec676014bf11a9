"""Checks now and then that Zipkin could store what it took.

Zipkin accepts before it stores, over HTTP (202) and over gRPC. If its storage is down, it forgets what it took. Its
`/health` knows. Batches are therefore held in memory until a later check finds the storage up. A storage that is found
down counts as an unavailable Zipkin, and the held batches go out again afterwards. Zipkin merges spans that it gets
twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import httpx

from tracing.transport import Rejected, Transport, Unavailable

log = logging.getLogger(__name__)

#: Between two checks while batches are sent. A dead storage is noticed at most this late.
CHECK_INTERVAL_S = 5.0
#: If more than this is held, a check precedes the next batch.
MAX_HELD_BYTES = 16 * 2**20


class StorageCheckedTransport:
    """Wraps a transport to Zipkin and believes Zipkin's answer only once its storage was seen to be up.

    Args:
        transport: The way to that Zipkin.
        zipkin_url: Base URL, without a slash at its end. `/health` is below it. Proxies in the environment are ignored.
        timeout_s: For one look at `/health`.
        clock: Seconds, monotonic.
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
        self._checked_at = clock()
        self._held: list[Sequence[bytes]] = []  # batches that were taken and are not known to be stored
        self._held_bytes = 0
        self._down = False

    def send(self, traces: Sequence[bytes]) -> int | None:
        """As `Transport.send`."""
        if self._down or self._held_bytes > MAX_HELD_BYTES:
            self._check_storage()
        refused = self._transport.send(traces)
        if self._clock() - self._checked_at >= CHECK_INTERVAL_S:
            self._check_storage()  # if it raises, the sender still has these traces
        self._held.append(traces)
        self._held_bytes += sum(map(len, traces))
        return refused

    def _check_storage(self) -> None:
        """Raise Unavailable if Zipkin's storage is down. Once it is up again, send the held batches anew."""
        self._checked_at = self._clock()
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
        """Ask Zipkin's health page. False only if it says that a storage is down, or hangs.

        A receiver without such a page (an OpenTelemetry collector, Jaeger) counts as up, and so does a Zipkin in which
        another part is out of order.
        """
        try:
            found = self._client.get(self._health_url).json()
            parts = found["zipkin"]["details"]
            return not any("Storage" in name and part["status"] == "DOWN" for name, part in parts.items())
        except httpx.ReadTimeout:
            return False  # it took a batch a moment ago, so it is not Zipkin itself that hangs
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
            return True

    def close(self) -> list[bytes]:
        """As `Transport.close`."""
        try:
            if self._held:
                self._check_storage()
        except Unavailable:
            pass  # the held traces go back to the caller
        self._client.close()
        self._transport.close()
        return self.unconfirmed()

    def unconfirmed(self) -> list[bytes]:
        """As `Unconfirmed.unconfirmed`."""
        return [trace for traces in tuple(self._held) for trace in traces]
