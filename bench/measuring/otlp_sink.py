"""A receiver of OTLP for measurements, in a process of its own: reads, counts spans, keeps none.

with otlp_sink() as sink:
    ...                 # send to sink.url
    sink.spans()        # how many it has taken
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cluster import ports
from cluster.ray_head import ROOT

START_S = 20.0


@dataclass(frozen=True)
class Sink:
    url: str

    def spans(self) -> int:
        """Return the number of spans that it has taken."""
        return int(httpx.get(self.url, trust_env=False).text)


@contextmanager
def otlp_sink() -> Iterator[Sink]:
    """Run one on a free port, and stop it afterwards."""
    port = ports.any_free()
    process = subprocess.Popen([sys.executable, "-m", "bench.measuring.otlp_sink", str(port)], cwd=ROOT)
    sink, end = Sink(f"http://127.0.0.1:{port}"), time.monotonic() + START_S
    try:
        while True:
            try:
                sink.spans()
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit("the receiver of OTLP did not start") from None
                time.sleep(0.1)
        yield sink
    finally:
        process.terminate()
        process.wait(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    taken = 0

    def do_POST(self) -> None:
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        message = ExportTraceServiceRequest.FromString(body)
        _Handler.taken += sum(len(scope.spans) for one in message.resource_spans for scope in one.scope_spans)
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(str(_Handler.taken).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), _Handler).serve_forever()
