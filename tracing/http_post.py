"""One POST to a receiver of traces, and the meaning of its answer."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import httpx

from tracing.transport import Rejected, Unavailable

#: The receiver says these of the batch itself; the same batch would fail again.
_REFUSALS = (400, 413, 422)


class HttpPost:
    """Posts straight to one address: proxies in the environment are ignored, and redirects are not followed.

    Args:
        url: The whole address.
        timeout_s: For one request.
        trusted: Certificates to trust with https; None for the usual authorities.
    """

    def __init__(self, url: str, timeout_s: float, trusted: ssl.SSLContext | None = None) -> None:
        self._url = url
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 2.0)),
            trust_env=False,
            follow_redirects=False,
            verify=trusted or True,
        )

    def __call__(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """Post and return the answer of a receiver that took the body.

        Raises:
            Rejected: The receiver refuses this body.
            Unavailable: It doesn't answer, or with an error that isn't about the body: of the server, of the address,
                of the credentials. These are worth another attempt, because the spool keeps the traces meanwhile.
        """
        try:
            # An answer's body could echo what was sent, so it is never logged.
            answer = self._client.post(self._url, content=body, headers=dict(headers))
        except httpx.HTTPError as error:
            raise Unavailable(type(error).__name__) from None
        if answer.is_success:
            return answer
        if answer.status_code in _REFUSALS:
            raise Rejected(f"HTTP {answer.status_code}")
        raise Unavailable(
            f"HTTP {answer.status_code}",
            answered=answer.status_code >= 500,
            retry_after_s=retry_after_s(answer.headers.get("Retry-After")),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def retry_after_s(header: str | None, now: float | None = None) -> float:
    """Read `Retry-After`: seconds, or a date. 0 if there is none, or none that can be read."""
    if header is None:
        return 0.0
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return 0.0
