"""200 sessions opened, abused and closed: memory stays level, no replica is restarted, and no trace is half."""

from __future__ import annotations

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.helpers.serving import App
from tests.served.test_live_served import CONFIG, event, say, send, session
from tracing import vocabulary

SESSIONS = 200
GARBAGE: list[str | bytes] = ["{", "[]", b"\x00" * 1000, "x" * 50_000, '{"type": "input.text", "text": 1}']
pytestmark = pytest.mark.drill


def abuse(app: App, number: int) -> str:
    """Open a session, do something bad with it, and return what."""
    chance = random.Random(number)
    kind = chance.choice(["leave", "mid", "garbage", "flood", "cancel", "deaf", "giant", "good"])
    with suppress(ConnectionClosed, TimeoutError, OSError, InvalidStatus), session(app, kind != "leave") as ws:
        if kind == "leave":
            ws.socket.shutdown(socket.SHUT_RDWR)
        elif kind == "mid":
            send(ws, "input.text", text="It will be broken off. In the middle of ")
            time.sleep(chance.random() / 2)
            ws.socket.shutdown(socket.SHUT_RDWR)
        elif kind == "garbage":
            for _ in range(40):
                ws.send(chance.choice(GARBAGE))
            while True:
                event(ws)
        elif kind == "flood":
            for _ in range(60):
                send(ws, "input.text", text="It is a flood of text. " * 40)
                send(ws, "input.done")
            time.sleep(1)
            ws.socket.shutdown(socket.SHUT_RDWR)
        elif kind == "cancel":
            for _ in range(5):
                send(ws, "input.text", text="It is cancelled again and again. And ")
                time.sleep(0.05)
                send(ws, "cancel")
            assert say(ws, "It goes on.")["type"] == "session.done"
        elif kind == "deaf":
            send(ws, "session.config", **CONFIG, stream_audio=True)
            send(ws, "input.text", text="Nobody hears this sentence of all. " * 20)
            send(ws, "input.done")
            time.sleep(3)
            ws.socket.shutdown(socket.SHUT_RDWR)
        elif kind == "giant":
            ws.send("x" * (9 * 2**20))
            event(ws)
        else:
            assert say(ws, "All is well.")["total_sentences"] == 1
    return kind


def memory(pids: set[int]) -> float:
    """Megabytes of the ingress and of Serve's proxy together."""
    proxies = {
        one.pid for one in psutil.process_iter(["cmdline"]) if "ProxyActor" in " ".join(one.info["cmdline"] or [])
    }
    assert proxies
    return sum(psutil.Process(pid).memory_info().rss for pid in pids | proxies) / 1e6


def round_of(app: App, count: int, first: int) -> None:
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda number: abuse(app, number), range(first, first + count)))
    assert len(done) == count
    end = time.monotonic() + 30
    while sum(counts["sessions_open"] for counts in app.counters()):
        assert time.monotonic() < end, "a session was left open"
        time.sleep(0.2)


def whole(spans: list[dict[str, Any]]) -> bool:
    """Tell if a trace is whole: one root, and every other span's parent is there."""
    ids = {span["id"] for span in spans}
    roots = [span for span in spans if "parentId" not in span]
    return len(roots) == 1 and all(span["parentId"] in ids for span in spans if "parentId" in span)


def test_200_sessions_are_abused_and_nothing_suffers(ray_driver, fast):
    pids = {counts["pid"] for counts in fast.counters()}
    round_of(fast, 40, 10_000)  # what stays in memory once is there now
    before = memory(pids)
    round_of(fast, SESSIONS // 2, 0)
    half = memory(pids)
    round_of(fast, SESSIONS // 2, SESSIONS // 2)
    after = memory(pids)
    print(json.dumps({"before_mb": before, "half_mb": half, "after_mb": after}))
    assert {counts["pid"] for counts in fast.counters()} == pids, "a replica was restarted"
    assert after - half < 25 and after - before < 60, (before, half, after)
    time.sleep(2)
    query = {"serviceName": "cosyvoice3-api", "spanName": "ws /v1/audio/speech/stream", "limit": 200}
    traces = httpx.get(f"{fast.zipkin}/api/v2/traces", params=query, trust_env=False).json()
    assert len(traces) > 100 and all(whole(spans) for spans in traces)
    assert all(vocabulary.SESSION_ID in root["tags"] for spans in traces for root in spans if "parentId" not in root)
    with session(fast) as ws:
        assert say(ws, "All is well.")["total_sentences"] == 1
