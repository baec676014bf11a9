"""Sends traces by OTLP/HTTP: protobuf, gzipped, to `/v1/traces`. For the rules see `docs/otlp.md`."""

from __future__ import annotations

import gzip
import json
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tracing.export_settings import OtlpDestination
from tracing.http_post import HttpPost
from tracing.otlp_encoding import OtlpEncoder
from tracing.transport import NO_TRACE, Rejected, Unavailable

_HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
_LINE = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*:[ \t]*([ -~]*?)[ \t]*")
_GRPC_PORT = ":4317"
#: What an operator has to look at, by the status that a receiver answers a wrong setting with.
_HINTS = {
    "HTTP 401": "; the receiver wants credentials: see otlp.headers_file",
    "HTTP 403": "; the receiver does not accept these credentials: see otlp.headers_file",
    "HTTP 404": "; nothing takes OTLP there: otlp.url is the address to which /v1/traces is added",
    "HTTP 405": "; nothing takes OTLP there: otlp.url is the address to which /v1/traces is added",
}


class OtlpTransport:
    """Sends each batch as one POST.

    Args:
        destination: The receiver.
        timeout_s: For one request.

    Raises:
        ValueError: The file of headers or of certificates can't be used.
    """

    name = "otlp"

    def __init__(self, destination: OtlpDestination, timeout_s: float) -> None:
        self._url = destination.url
        self._encoder = OtlpEncoder(destination.resource)
        self._headers = dict(destination.headers)
        self._secrets = HeadersFile(destination.headers_file) if destination.headers_file is not None else None
        if self._secrets is not None:
            self._secrets.read()
        self._post = HttpPost(f"{destination.url}/v1/traces", timeout_s, _trusted(destination.ca_file))

    def send(self, traces: Sequence[bytes]) -> int:
        """As `Transport.send`. Returns the number of spans in the receiver's partial success."""
        try:
            message = self._encoder.encode(traces)
        except NO_TRACE as error:
            raise Rejected(f"no trace: {type(error).__name__}") from None
        return self._send(message)

    def check(self) -> None:
        """Send a request without spans, as `send` would send one with them.

        Raises:
            Rejected: The receiver refuses it.
            Unavailable: It doesn't answer, or not as a receiver of OTLP.
        """
        self._send(b"")

    def _send(self, message: bytes) -> int:
        try:
            secrets = self._secrets.read() if self._secrets is not None else {}
        except ValueError as error:
            raise Unavailable(str(error)) from None
        try:
            answer = self._post(gzip.compress(message, compresslevel=1), {**self._headers, **secrets, **_HEADERS})
        except Unavailable as error:
            hint = _HINTS.get(error.why, "")
            if not error.why.startswith("HTTP") and _GRPC_PORT in self._url:
                hint = "; 4317 is the port of OTLP over gRPC: OTLP/HTTP is usually at 4318"
            raise Unavailable(error.why + hint, answered=error.answered, retry_after_s=error.retry_after_s) from None
        return _refused_spans(answer)

    def close(self) -> None:
        """Close the connections."""
        self._post.close()


class HeadersFile:
    """Headers in a file, one `Name: value` a line. Empty lines and lines that begin with `#` are left out.

    Args:
        path: The file. It is read again when its time or size has changed, as a rotated secret's has.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._headers: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        """Return the headers.

        Raises:
            ValueError: The file can't be read, or a line is no header. The message quotes no line.
        """
        try:
            found = self._path.stat()
            if (found.st_mtime_ns, found.st_size) == self._seen:
                return self._headers
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ValueError(
                f"tracing.otlp.headers_file {self._path} can't be read ({error.strerror}); make it, with a line such "
                "as `Authorization: Bearer …`, readable for the user that Ray runs as, on every node with an ingress"
            ) from None
        headers = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ValueError(
                    f"tracing.otlp.headers_file {self._path}, line {number}: no header. Write `Name: value`, in ASCII"
                )
            headers[match[1]] = match[2]
        self._headers, self._seen = headers, (found.st_mtime_ns, found.st_size)
        return headers


def _trusted(ca_file: Path | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except ssl.SSLError:
        raise ValueError(f"tracing.otlp.ca_file {ca_file} holds no certificate in PEM form") from None
    except OSError as error:
        raise ValueError(
            f"tracing.otlp.ca_file {ca_file} can't be read ({error.strerror}); name the PEM file of the authority that "
            "signed the receiver's certificate"
        ) from None


def _refused_spans(answer: httpx.Response) -> int:
    """Read the number of refused spans from a 2xx answer.

    Raises:
        Unavailable: The answer is not one of OTLP, so the address is another server's, and took nothing.
    """
    if not answer.content:
        return 0
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    try:
        if kind == "application/json":  # some receivers answer so, whatever they were sent
            return int(json.loads(answer.content).get("partialSuccess", {}).get("rejectedSpans", 0))
        return int(ExportTraceServiceResponse.FromString(answer.content).partial_success.rejected_spans)
    except (ValueError, TypeError, AttributeError, DecodeError):
        pass
    raise Unavailable(f"HTTP {answer.status_code} that is not OTLP ({kind or 'no content type'}); is otlp.url right?")
