"""Secrets in every place a client can put one, then a search for them in every place a byte can end up.

Real Ray, a real Zipkin, the real graph with an engine that quotes its input when it fails. Each test of a place that
is searched also looks for something that must be there, so that a search of the wrong place can't pass.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import secrets
import signal
import socket
import time
from dataclasses import dataclass, field, replace

import httpx
import pytest

from tests.helpers.files import contents
from tests.helpers.serving import App, tone

WORD = f"kanarie{secrets.token_hex(4)}"
HAN = "金丝雀" + "".join(chr(0x4E00 + secrets.randbelow(0x2000)) for _ in range(4))
#: the forms in which the two may turn up, beside upper and lower case
FORMS = [
    WORD.encode(),
    HAN.encode(),
    json.dumps(HAN)[1:-1].encode(),
    repr(HAN.encode())[2:-1].encode(),
    HAN.encode("utf-16-le"),
    WORD.encode("utf-16-le"),
    WORD.encode().hex().encode(),
]


def c(place: str) -> str:
    """A secret that says where it was put."""
    return f"{WORD}-{place}"


def found(data: bytes) -> list[str]:
    """Return the surroundings of each secret in `data`."""
    low = data.lower()
    spots = [low.find(form.lower()) for form in FORMS]
    return [data[max(0, at - 60) : at + 80].decode("latin-1") for at in spots if at >= 0]


HEADERS = {
    "X-Request-ID": c("request-id"),
    "X-User-Id": c("user"),
    "Authorization": f"Bearer {c('bearer')}",
    "X-API-Key": c("key"),
    "baggage": f"who={c('baggage')}",
    "tracestate": f"v={c('tracestate')}",
    "User-Agent": c("agent"),
    "Cookie": f"session={c('cookie')}",
    "Referer": f"http://{c('referer')}/",
    "X-Session-Id": c("session"),
    "serve_multiplexed_model_id": c("model"),
    "traceparent": c("traceparent"),
    "b3": c("b3"),
    "X-Custom": c("header"),
    c("header-name"): "1",
}
TEXT = f"Say {c('text')} and {HAN}."
GOOD = {"text": TEXT, "dialect": "en-US", "prompt_text": f"{c('transcript')} {HAN}"}


def with_note(note: str) -> bytes:
    """A good clip with a comment in a chunk of its own."""
    chunk = note.encode().ljust(64)
    clip = bytearray(tone()) + b"note" + len(chunk).to_bytes(4, "little") + chunk
    clip[4:8] = (len(clip) - 8).to_bytes(4, "little")
    return bytes(clip)


@dataclass
class Sent:
    """Collect the answers to the requests of this file."""

    answers: list[httpx.Response] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)  #: trace id by the stage that raised
    began_ms: int = field(default_factory=lambda: int(time.time() * 1000) - 1000)

    @property
    def trace_ids(self) -> set[str]:
        return {answer.headers["x-trace-id"] for answer in self.answers}


def ask(
    app: App,
    path: str = "/api/generate",
    *,
    method: str = "POST",
    clip: bytes | None = None,
    headers: dict | None = None,
    content: bytes | None = None,
    **fields: str,
) -> httpx.Response:
    files = {"prompt_audio": (f"{c('file')}.wav", with_note(c("clip")) if clip is None else clip, f"audio/{c('part')}")}
    body = {"content": content} if content is not None else {"data": GOOD | fields, "files": files}
    return httpx.request(
        method,
        app.url + path,
        params={"q": c("query")},
        headers=HEADERS | (headers or {}),
        timeout=30,
        trust_env=False,
        **body,
    )


def raw(app: App, *data: bytes) -> bytes:
    """Bytes as they are to the proxy, and what it answers until it is silent for a moment."""
    with socket.create_connection(("127.0.0.1", app.port), timeout=1.5) as connection:
        connection.sendall(b"".join(data))
        answer = b""
        try:
            while more := connection.recv(65536):
                answer += more
        except OSError:
            pass
        return answer


def form(*parts: bytes, boundary: bytes = b"x") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


FIELDS = [
    ({}, 200),
    ({"mode": "instruct", "style_instruction": f"like {c('style')} {HAN}"}, 200),
    ({"dialect": c("dialect")}, 400),
    ({"mode": c("mode")}, 400),
    ({"speed": c("speed")}, 400),
    ({"seed": c("seed")}, 400),
    ({c("field"): c("value")}, 400),
    ({"text": TEXT * 9}, 400),
    ({"text": f"<|{c('token')}|>"}, 400),
    ({"style_instruction": c("style-without-instruct")}, 400),
    ({"mode": "instruct", "style_instruction": c("long-style") * 99}, 400),
    ({"prompt_text": c("transcript") * 99}, 400),
    ({"text": c("huge") * 3000}, 400),
    ({"text": f"refuse:generate {TEXT}"}, 400),
]
BODIES = [
    (f"application/{c('content-type')}", c("json").encode()),
    ("multipart/form-data", c("no-boundary").encode()),
    (f"multipart/form-data; boundary={c('boundary')}", c("garbage").encode()),
    (
        "multipart/form-data; boundary=x",
        form(b'Content-Disposition: form-data; name="text"\r\n\r\n' + c("t").encode()) + c("after-the-end").encode(),
    ),
    ("multipart/form-data; boundary=x", form(c("bad header").encode() + b"\x01: 1\r\n\r\n1")),
    ("multipart/form-data; boundary=x", b"--" + c("wrong-boundary").encode()),
    (
        "multipart/form-data; boundary=x; charset=" + c("charset"),
        form(b'Content-Disposition: form-data; name="' + c("latin").encode() + b'\xff\xfe"\r\n\r\n\xff\xfe'),
    ),
    (
        "multipart/form-data; boundary=x",
        form(
            b'Content-Disposition: form-data; name="text"\r\n'
            b"Content-Transfer-Encoding: " + c("encoding").encode() + b"\r\n\r\nx"
        ),
    ),
]
FAULTS = {
    "prepare": {"prompt_text": f"fault:prepare {c('message')} {HAN}"},
    "encode": {"prompt_text": f"fault:encode {c('message')} {HAN}"},
    "generate": {"text": f"fault:generate {c('message')} {HAN}"},
    "vocode": {"text": f"fault:vocode {c('message')} {HAN}"},
}


def held_up(app: App) -> list[httpx.Response]:
    """A stage hangs while more requests come than may wait: deadlines, a full queue, then the stage's death."""
    [replica] = app.replicas("audio-service")
    os.kill(replica["pid"], signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = [future.result() for future in [pool.submit(ask, app) for _ in range(10)]]
        last = pool.submit(ask, app)
        time.sleep(0.5)
        os.kill(replica["pid"], signal.SIGKILL)
        return [*answers, last.result()]


@pytest.fixture(scope="module")
def sent(apps, stand_in) -> Sent:
    """Every request, once."""
    app, sent = apps["watched"], Sent()
    stand_in.mode = "well"

    def expect(status: int, answer: httpx.Response) -> httpx.Response:
        assert answer.status_code == status, answer.text
        sent.answers.append(answer)
        return answer

    for fields, status in FIELDS:
        expect(status, ask(app, **fields))
    for clip in (c("no-audio").encode() * 99, tone(rate=8000), with_note(c("cut"))[:9000], b"OggS" + c("ogg").encode()):
        expect(400, ask(app, clip=clip))
    for content_type, body in BODIES:
        expect(400, ask(app, content=body, headers={"Content-Type": content_type}))
    expect(404, ask(app, f"/{c('path')}"))
    expect(405, ask(app, "/api/generate", method="PUT"))
    expect(404, ask(replace(app, name=c("app")), f"/{c('path')}"))
    expect(422, ask(apps["voice"], dialect="zh-Sichuan"))
    for stage, fields in FAULTS.items():
        sent.faults[stage] = expect(500, ask(app, **fields)).headers["x-trace-id"]
    path = f"/watched/{c('path')}?{c('query')}".encode()
    sent.raw += [
        raw(app, b"GET ", path, b" HTTP/1.1\r\nHost: x\r\n", c("broken header").encode(), b"\x00\r\n\r\n"),
        raw(app, c("METHOD").encode(), b" ", path, b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        raw(app, b"GET ", path, b" HTTP/9.", c("version").encode(), b"\r\n\r\n"),
        raw(
            app,
            b"GET ",
            path,
            b" HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            b"Sec-WebSocket-Protocol: ",
            c("protocol").encode(),
            b"\r\n\r\n",
        ),
        raw(
            app,
            b"POST /watched/api/generate HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 999999\r\n\r\n--x\r\n",
            c("half a request").encode(),
        ),  # and leaves
    ]
    sent.answers += held_up(app)
    app.wait_ready()
    return sent


def test_every_kind_of_answer_was_given_and_none_repeats_a_secret(sent):
    kinds = {answer.json()["error"]["type"] for answer in sent.answers if answer.status_code != 200}
    assert kinds >= {
        "input_validation",
        "unsupported_dialect",
        "not_found",
        "method_not_allowed",
        "internal",
        "deadline_exceeded",
        "overloaded",
    }
    for answer in sent.answers:
        head = json.dumps([[name, value] for name, value in answer.headers.multi_items()])
        assert found(head.encode() + answer.content) == [], answer.request.url
    for answer in sent.raw:
        assert found(answer) == []


def test_no_secret_reaches_zipkin_or_the_wire_to_it_or_to_a_receiver_of_otlp(
    sent, watched, stand_in, otlp, watched_spool
):
    traces = {}
    end = time.monotonic() + 20
    while not sent.trace_ids <= traces.keys() and time.monotonic() < end:
        now = int(time.time() * 1000)
        answer = httpx.get(
            f"{watched.zipkin}/api/v2/traces",
            trust_env=False,
            timeout=30,
            params={"endTs": now + 1000, "lookback": now - sent.began_ms + 2000, "limit": 100_000},
        )
        traces = {trace[0]["traceId"]: trace for trace in answer.json()}
        time.sleep(0.3)
    assert sent.trace_ids <= traces.keys(), "every request has its trace"
    assert found(answer.content) == []
    with_user = [span for trace in traces.values() for span in trace if "user.hash" in span.get("tags", {})]
    assert with_user and found(json.dumps(with_user).encode()) == [], "the user is there, as a hash"
    for path in (
        "/api/v2/services",
        "/api/v2/autocompleteKeys",
        *(f"/api/v2/{list}?serviceName=cosyvoice3-api" for list in ("spans", "remoteServices")),
        *(f"/api/v2/autocompleteValues?key={key}" for key in ("error.type", "request.dialect", "stage")),
    ):
        assert found(httpx.get(watched.zipkin + path, trust_env=False).content) == [], path
    wire = b"".join(stand_in.seen)
    assert all(trace_id.encode() in wire for trace_id in sent.faults.values())
    assert found(wire) == []
    by_otlp = b"".join(message.SerializeToString() for message in list(otlp.requests))
    assert all(bytes.fromhex(trace_id) in by_otlp for trace_id in sent.faults.values())
    assert found(by_otlp) == []
    assert [path for path, data in contents(watched_spool) if found(data)] == []
    for stage, trace_id in sent.faults.items():
        failed = {span["tags"]["error"] for span in traces[trace_id] if "error" in span.get("tags", {})}
        assert failed == {"internal"}, (stage, "type alone, and no message")


def test_no_secret_is_in_any_file_of_ray(sent, ray_head):
    """Logs of proxy, controller, replicas and Ray itself, events, and whatever else lies in the session's folder."""
    places, leaks = {}, []
    for path, data in contents(ray_head.logs.parent):
        leaks += [f"{path.name}: {spot!r}" for spot in found(data)]
        for stage, trace_id in sent.faults.items():
            if trace_id.encode() in data:
                places[stage] = data
    assert leaks == []
    assert places.keys() == FAULTS.keys(), "the log says which request failed"
    for stage, data in places.items():
        [line] = [line for line in data.decode().splitlines() if sent.faults[stage] in line]
        assert "RuntimeError at " in line and "caused by builtins.ValueError" in line and "in obey" in line, line


def metrics(target: str) -> str:
    try:
        return httpx.get(f"http://{target}/metrics", trust_env=False, timeout=20).text
    except httpx.ConnectError:
        return ""  # Ray lists the ports of parts that this head leaves out


def test_no_secret_is_in_metrics(sent, ray_head):
    """Ray's and Serve's, as Prometheus would scrape them; they are renewed every 10 s."""
    targets = json.loads((ray_head.logs.parent.parent / "prom_metrics_service_discovery.json").read_text())
    scraped, end = "", time.monotonic() + 25
    while not ('application="watched"' in scraped and "ray_serve_num_http_error_requests" in scraped):
        assert time.monotonic() < end, "Serve's metrics never came"
        scraped = "".join(metrics(target) for entry in targets for target in entry["targets"])
        time.sleep(0.5)
    assert found(scraped.encode()) == []


def test_no_secret_is_in_what_the_dashboard_answers(sent, ray_head):
    controls = {
        "/api/serve/applications/": "watched",
        "/logical/actors": "ServeReplica:watched",
        "/api/v0/actors?detail=1&limit=1000": "ServeReplica:watched",
        "/nodes?view=summary": "127.0.0.1",
    }
    for path in (
        *controls,
        "/nodes?view=details",
        "/api/v0/tasks?detail=1&limit=10000",
        "/api/v0/workers?detail=1",
        "/api/v0/objects?detail=1",
        "/api/v0/tasks/summarize",
        "/api/cluster_status",
        "/events",
        "/api/v0/cluster_events",
        "/api/jobs/",
        "/api/v0/runtime_envs",
    ):
        answer = httpx.get(ray_head.dashboard_url + path, trust_env=False, timeout=60)
        assert found(answer.content) == [], path
        assert controls.get(path, "") in answer.text, path
