"""A stand-in for WeCom's API as its documentation describes it: an application's messages and a group robot's.

`GET /cgi-bin/gettoken?corpid&corpsecret`, `POST /cgi-bin/message/send?access_token` and `POST
/cgi-bin/webhook/send?key`. Like WeCom it answers 200 with an `errcode` to nearly everything.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

CORP, AGENT, TOKEN = "ww0123456789", "1000002", "t0ken"
SECRET, KEY = "application-secret-0123", "robot-key-0123456789abcdef"


class FakeWecom:
    """`api` is its address. `robot` and `application` are the contents of the messages it has taken; `answers` are
    errcodes that it gives, in this order, before it is well."""

    def __init__(self) -> None:
        self.robot: list[str] = []
        self.application: list[dict] = []
        self.answers: list[int] = []
        self.asked = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(fake.token(*self._asked_for()))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._answer(fake.message(*self._asked_for(), body))

            def _asked_for(self) -> tuple[str, dict[str, str]]:
                parts = urlsplit(self.path)
                return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}

            def _answer(self, body: dict) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.api = f"http://127.0.0.1:{self._server.server_port}/cgi-bin/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def token(self, path: str, query: dict[str, str]) -> dict:
        if path != "/cgi-bin/gettoken" or query != {"corpid": CORP, "corpsecret": SECRET}:
            return {"errcode": 40001, "errmsg": "invalid credential"}
        return {"errcode": 0, "errmsg": "ok", "access_token": TOKEN, "expires_in": 7200}

    def message(self, path: str, query: dict[str, str], body: dict) -> dict:
        self.asked += 1
        if self.answers and (code := self.answers.pop(0)):
            return {"errcode": code, "errmsg": "as told"}
        content = body.get("markdown", {}).get("content", "")
        if body.get("msgtype") != "markdown" or not content:
            return {"errcode": 40008, "errmsg": "invalid message type"}
        if path == "/cgi-bin/webhook/send":
            if query != {"key": KEY}:
                return {"errcode": 93000, "errmsg": "invalid webhook url"}
            if len(content.encode()) > 4096:
                return {"errcode": 40058, "errmsg": "markdown.content exceed max length 4096"}
            self.robot.append(content)
        elif path == "/cgi-bin/message/send":
            if query != {"access_token": TOKEN}:
                return {"errcode": 40014, "errmsg": "invalid access_token"}
            if str(body.get("agentid")) != AGENT or not (body.get("touser") or body.get("toparty")):
                return {"errcode": 40056, "errmsg": "invalid agentid"}
            if len(content.encode()) > 2048:
                return {"errcode": 40058, "errmsg": "markdown.content exceed max length 2048"}
            self.application.append(body)
        else:
            return {"errcode": 40066, "errmsg": "invalid url"}
        return {"errcode": 0, "errmsg": "ok"}

    def wait_for(self, found, within_s: float):
        """The first true value of `found()`; AssertionError after `within_s`."""
        end = time.monotonic() + within_s
        while not (value := found()):
            assert time.monotonic() < end, f"WeCom has {len(self.robot)} and {len(self.application)} messages"
            time.sleep(0.1)
        return value

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
