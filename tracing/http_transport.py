"""Sends traces to Zipkin's `/api/v2/spans`, gzipped."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import httpx

from tracing.transport import Rejected, Unavailable, join

_HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


class HttpTransport:
    """Sends each batch as one POST, straight to the host: proxies in the environment are ignored.

    Args:
        zipkin_url: Base URL, without a slash at its end.
        timeout_s: For one request.
    """

    name = "http"

    def __init__(self, zipkin_url: str, timeout_s: float) -> None:
        self._url = f"{zipkin_url}/api/v2/spans"
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, 2.0))
        self._client = httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False)

    def send(self, traces: Sequence[bytes]) -> None:
        """As `Transport.send`."""
        body = gzip.compress(join(traces), compresslevel=1)
        try:
            # Only the answer's status is read. Its body could echo what was sent, so it is never logged.
            answer = self._client.post(self._url, content=body, headers=_HEADERS)
        except httpx.HTTPError as error:
            raise Unavailable(type(error).__name__) from None
        if answer.is_success:
            return
        if answer.status_code in (400, 413, 422):
            raise Rejected(f"HTTP {answer.status_code}")
        raise Unavailable(f"HTTP {answer.status_code}", answered=answer.status_code >= 500)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
