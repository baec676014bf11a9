"""Clients that speak HTTP in their own way: HTTP/1.0, HEAD, file names beyond ASCII; browsers at `/` and `/docs`."""

from __future__ import annotations

import base64
import io
import json
import socket
import time

import httpx
import pytest
import soundfile

from tests.helpers.browser import Asked
from tests.helpers.serving import App, multipart, tone


def http10(app: App, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> tuple:
    """Ask by HTTP/1.0; the status, the headers by small names, and every byte behind them."""
    lines = [f"{method} /{app.name}{path} HTTP/1.0", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    with socket.create_connection(("127.0.0.1", app.port), timeout=60) as connection:
        connection.sendall(request)
        got = b""
        while data := connection.recv(65_536):  # to the end of the connection: HTTP/1.0 keeps none open
            got += data
    head, _, rest = got.partition(b"\r\n\r\n")
    first, *named = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {k.lower(): v for k, _, v in (line.partition(": ") for line in named)}, rest


def form(**fields: str) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a form with a clip."""
    head, _, body = multipart("x", {"text": "Hello", "dialect": "en-US"} | fields, tone()).partition(b"\r\n\r\n")
    kind = next(line for line in head.decode().split("\r\n") if line.lower().startswith("content-type"))
    return {"Content-Type": kind.partition(": ")[2]}, body


@pytest.mark.parametrize("stream", [{}, {"stream_format": "audio"}])
def test_http10_gets_a_whole_file_without_chunks(fast, stream):
    status, headers, body = http10(fast, "POST", "/api/generate", *form(**stream))
    assert status == 200 and "transfer-encoding" not in headers
    assert int(headers["content-length"]) == len(body)
    sound, rate = soundfile.read(io.BytesIO(body))
    assert rate == 24_000 and len(sound) == 10 * rate, "a whole WAV: its header tells its length"


def test_http10_gets_events_without_chunks(fast):
    status, headers, body = http10(fast, "POST", "/api/generate", *form(stream_format="sse"))
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    assert int(headers["content-length"]) == len(body)
    events = [line for line in body.decode().split("\n") if line]
    assert all(line.startswith(("event: ", "data: ")) for line in events), "no lengths of chunks between them"
    assert events[-2] == "event: done"


def test_http10_at_openais_path_whose_answers_are_streams(fast):
    clip = "data:audio/wav;base64," + base64.b64encode(tone()).decode()
    asked = json.dumps({"input": "Good morning.", "ref_audio": clip, "dialect": "en-US", "response_format": "wav"})
    status, headers, body = http10(
        fast, "POST", "/v1/audio/speech", {"Content-Type": "application/json"}, asked.encode()
    )
    assert status == 200 and int(headers["content-length"]) == len(body) and body[:4] == b"RIFF"


def test_http10_gets_errors_as_anybody_does(fast):
    status, headers, body = http10(fast, "POST", "/api/generate", *form(text=""))
    assert status == 400 and int(headers["content-length"]) == len(body)
    assert json.loads(body)["error"]["code"] == "text_empty" and len(headers["x-trace-id"]) == 32


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/cosygraph", "/docs", "/api/dialects"])
def test_head_is_get_without_its_body(fast, path):
    head = httpx.head(fast.url + path, trust_env=False)
    assert head.status_code == 200 and head.content == b""
    got = httpx.get(fast.url + path, trust_env=False)
    assert head.headers["content-type"] == got.headers["content-type"]


def test_head_makes_no_trace_of_an_error(fast):
    """Those who poll with HEAD used to get 405, which is kept in Zipkin as every error is."""
    answer = httpx.head(f"{fast.url}/health", trust_env=False, headers={"b3": f"{'ab' * 16}-{'cd' * 8}-1"})
    assert answer.status_code == 200
    refused = httpx.head(f"{fast.url}/api/generate", trust_env=False)
    assert refused.status_code == 405
    fast.trace(refused.headers["x-trace-id"])  # sent later than the first one's would have been
    time.sleep(0.5)
    assert httpx.get(f"{fast.zipkin}/api/v2/trace/{answer.headers['x-trace-id']}", trust_env=False).status_code == 404


def test_a_file_whose_name_is_no_ascii(fast):
    headers, body = form()
    assert body.count(b'filename="clip.wav"') == 1
    body = body.replace(b'filename="clip.wav"', b"filename*=utf-8''%E5%BD%95%E9%9F%B3.wav")
    answer = httpx.post(f"{fast.url}/api/generate", content=body, headers=headers, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text


class TestInABrowser:
    @pytest.mark.parametrize(
        "path, sign", [("/docs", ".opblock-summary-path"), ("/redoc", '[data-section-id^="operation/"], #operation')]
    )
    def test_the_documentation_asks_this_server_alone(self, fast, browser, path, sign):
        page = browser.new_page()
        asked = Asked(page)
        page.goto(fast.url + path)
        page.wait_for_selector(sign, timeout=30_000)
        page.wait_for_load_state("networkidle")
        assert "/api/generate" in page.content() and "/v1/audio/speech" in page.content()
        assert asked.hosts == {"127.0.0.1"} and asked.complaints == []
        page.close()

    def test_a_request_is_tried_on_the_page(self, fast, browser):
        page = browser.new_page()
        page.goto(f"{fast.url}/docs")
        page.locator(".opblock", has_text="/health").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.wait_for_selector(".live-responses-table .response-col_status:has-text('200')", timeout=20_000)
        page.close()
