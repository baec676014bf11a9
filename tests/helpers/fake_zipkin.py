"""A stand-in for Zipkin's HTTP side that answers as it is told: refusals, failures, a storage that is down."""

import gzip
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.helpers.serving_thread import serving


class FakeZipkin(ThreadingHTTPServer):
    """Answers POST /api/v2/spans with the statuses it was given, then 202, and keeps what it took."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), FakeZipkinHandler)
        self.host = host
        self.down = False  #: answers 503 to everything
        self.statuses: list[int] = []
        self.spans: list[dict] = []
        self.headers: list[dict] = []
        self.health: dict | None = None  #: what /health answers with; None: there is no such page
        self.looks = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.server_port}"


class FakeZipkinHandler(BaseHTTPRequestHandler):
    server: FakeZipkin

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append(dict(self.headers))
        status = 503 if self.server.down else self.server.statuses.pop(0) if self.server.statuses else 202
        if status == 202 and self.path == "/api/v2/spans":
            self.server.spans += json.loads(gzip.decompress(body))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"an answer that echoes canary7secret")

    def do_GET(self) -> None:
        self.server.looks += self.path == "/health"
        self.send_response(404 if self.server.health is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(self.server.health).encode())

    def log_message(self, *_) -> None:
        pass


@contextmanager
def fake_zipkin(host: str = "127.0.0.1"):
    with serving(FakeZipkin(host)) as server:
        yield server
