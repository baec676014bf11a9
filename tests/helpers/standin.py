"""A stand-in between the ingress and the real Zipkin: hands everything on, keeps what it saw, and fails on demand."""

from __future__ import annotations

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from cluster import ports

SLOW_S = 10.0


class StandIn:
    """Speaks Zipkin's `POST /api/v2/spans` at `url`.

    `mode` is one of: `well` (Zipkin's own answer), `down` (nobody listens), `slow` (an answer after 10 s, and nothing
    is handed on), `400` and `500`.
    """

    def __init__(self, zipkin_url: str) -> None:
        self.port = ports.any_free()
        self.url = f"http://127.0.0.1:{self.port}"
        self.seen: list[bytes] = []  #: every body that came in, unpacked, whatever became of it
        self.met = dict.fromkeys(("well", "slow", "400", "500"), 0)  #: attempts to send, by mode
        self._zipkin = httpx.Client(base_url=zipkin_url, trust_env=False, timeout=30)
        self._server: ThreadingHTTPServer | None = None
        self._mode = "down"
        self.mode = "well"

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode = mode
        if mode == "down":
            self._stop()
        elif self._server is None:
            self._start()

    def receive(self, body: bytes) -> int:
        """What to answer to a body, which is kept."""
        mode = self._mode
        self.met[mode] += 1
        self.seen.append(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        if mode == "slow":
            time.sleep(SLOW_S)
        status = int(mode) if mode.isdigit() else 202 if mode == "slow" else self._hand_on(body)
        return status

    def _hand_on(self, body: bytes) -> int:
        packed = {"Content-Encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
        return self._zipkin.post(
            "/api/v2/spans", content=body, headers={"Content-Type": "application/json", **packed}
        ).status_code

    def _start(self) -> None:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if stand_in._server is not self.server:  # "down", and this connection was still open
                    self.close_connection = True
                    return
                self.send_response(stand_in.receive(body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address) -> None:
                pass  # the client gave up on a slow answer, as it should

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def close(self) -> None:
        self._stop()
        self._zipkin.close()
