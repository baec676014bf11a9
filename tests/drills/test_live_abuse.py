"""200 sessions opened, abused and closed: memory stays level, no replica is restarted, and no trace is half.

Memory is read inside of the ingress and of Serve's proxy, each for itself. What is in use must be level: glibc's heap,
Python's blocks, and not one object of a session's may be left. What the kernel counts swings with how many of the worst
sessions met by chance: 16 of each kind at once come first, and its limit is wide.
"""

from __future__ import annotations

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deployments.arrays import HOLD_S
from tests.helpers import heap
from tests.helpers.serving import App
from tests.served.test_live_served import CONFIG, event, say, send, session
from tracing import vocabulary

SESSIONS = 200
GARBAGE: list[str | bytes] = ["{", "[]", b"\x00" * 1000, "x" * 50_000, '{"type": "input.text", "text": 1}']
KINDS = ("leave", "mid", "garbage", "flood", "cancel", "deaf", "giant", "good")
AT_ONCE = 16
MORE = 800  #: sessions in which their clients leave at once: what each of them left behind would add up
OF_A_SESSION = ("LiveSession", "LiveUtterance", "Handshake", "ReplicaFlow", "ProxyFlow", "LiveSentence", "_Answer")
pytestmark = pytest.mark.drill


def abuse(app: App, number: int, kind: str | None = None) -> str:
    """Open a session, do something bad with it, and return what."""
    chance = random.Random(number)
    kind = kind or chance.choice(KINDS)
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


def memory(app: App, ray: Any) -> dict[str, dict[str, Any]]:
    """Read the memory of the ingress and of Serve's proxy, once every kept trace is sent."""
    end = time.monotonic() + 60
    while sum(counts["export_zipkin_waiting"] for counts in app.counters()):
        assert time.monotonic() < end, "traces wait"
        time.sleep(0.5)
    time.sleep(HOLD_S + 1)  # the graph's own: arrays that a stage may still fetch
    found = {}
    for name in ray.util.list_named_actors():
        if "SERVE_PROXY_ACTOR" in name or f"{app.name}#cosyvoice3-api#" in name:
            actor = ray.get_actor(name, namespace="serve")
            for _ in range(2):  # generators that are garbage are closed by the event loop, between two readings
                reading = ray.get(actor.__ray_call__.remote(heap.read), timeout=30)
                time.sleep(1)
            found["proxy" if "PROXY" in name else "ingress"] = reading
    assert found.keys() == {"ingress", "proxy"}
    return found


def round_of(app: App, count: int, first: int, kind: str | None = None) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = list(pool.map(lambda number: abuse(app, number, kind), range(first, first + count)))
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
    for kind in KINDS:  # what stays in memory once is there now
        round_of(fast, AT_ONCE, 10_000, kind)
    readings = [memory(fast, ray_driver)]
    for first in (0, SESSIONS // 2):
        round_of(fast, SESSIONS // 2, first)
        readings.append(memory(fast, ray_driver))
    round_of(fast, MORE, SESSIONS, "leave")
    readings.append(memory(fast, ray_driver))
    for name in ("ingress", "proxy"):
        print(name, json.dumps([reading[name] for reading in readings]))
    assert {counts["pid"] for counts in fast.counters()} == pids, "a replica was restarted"
    for name, first in readings[0].items():
        for later in (reading[name] for reading in readings[1:]):
            assert later["pid"] == first["pid"]
            assert not of_a_session(later), (name, later)
            assert later["in_use_mb"] - first["in_use_mb"] < 2, (name, readings)
            assert later["blocks"] - first["blocks"] < 5_000, (name, readings)
            assert later["private_mb"] - first["private_mb"] < 30, (name, readings)
    traces = found_traces(fast)
    assert len(traces) > 100 and all(whole(spans) for spans in traces)
    assert all(vocabulary.SESSION_ID in root["tags"] for spans in traces for root in spans if "parentId" not in root)
    with session(fast) as ws:
        assert say(ws, "All is well.")["total_sentences"] == 1
        held = memory(fast, ray_driver)
        assert of_a_session(held["ingress"]) and of_a_session(held["proxy"]), "an open session is seen"


def of_a_session(reading: dict[str, Any]) -> list[str]:
    """Return the classes of a reading of which only an open session has objects."""
    return [one for one in reading["ours"] if one.rsplit(".", 1)[1] in OF_A_SESSION]


def found_traces(app: App) -> list[list[dict[str, Any]]]:
    """Return traces of sessions."""
    query: dict[str, str | int] = {
        "serviceName": "cosyvoice3-api",
        "spanName": "ws /v1/audio/speech/stream",
        "limit": 1000,
    }
    traces: list[list[dict[str, Any]]] = httpx.get(
        f"{app.zipkin}/api/v2/traces", params=query, timeout=30, trust_env=False
    ).json()
    return traces
