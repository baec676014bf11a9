"""Sends traces to Zipkin's `/api/v2/spans`, gzipped."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

from tracing.http_post import HttpPost
from tracing.transport import join

_HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


class HttpTransport:
    """Sends each batch as one POST.

    Args:
        zipkin_url: Base URL, without a slash at its end.
        timeout_s: For one request.
    """

    name = "http"

    def __init__(self, zipkin_url: str, timeout_s: float) -> None:
        self._post = HttpPost(f"{zipkin_url}/api/v2/spans", timeout_s)

    def send(self, traces: Sequence[bytes]) -> None:
        """As `Transport.send`."""
        self._post(gzip.compress(join(traces), compresslevel=1), _HEADERS)

    def close(self) -> None:
        """Close the connections."""
        self._post.close()
