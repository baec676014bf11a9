"""What the tests of export share: traces, a receiver whose answers the test chooses, a clock, patience."""

import json
import math
import time

from tracing import ExportSettings, Tracer
from tracing import vocabulary as words
from tracing.sender import Counters, Sender
from tracing.spool import Spool
from tracing.transport import Rejected, Unavailable, join


def trace(number: int, spans: int = 1) -> bytes:
    return json.dumps([{"traceId": f"{number:032x}", "id": f"{i + 1:016x}"} for i in range(spans)]).encode()


def real_trace() -> list[dict]:
    root = Tracer(words.INGRESS).server("POST /api/generate", parent=None)
    stage = Tracer(words.TTS).server(words.GENERATE_MEL, parent=root.carrier(2**62))
    return stage.finish() + root.finish()


class Receiver:
    """A transport whose answers the test chooses. `bad` spans are refused wherever they are found."""

    name = "fake"

    def __init__(self) -> None:
        self.traces: list[bytes] = []
        self.batches: list[int] = []
        self.trouble: Exception | None = None
        self.bad: set[tuple[str, str]] = set()
        self.poison: set[str] = set()
        self.closed = False

    def send(self, traces) -> None:
        self.batches.append(len(traces))
        if self.trouble:
            raise self.trouble
        spans = json.loads(join(traces))
        if any(span["traceId"] in self.poison for span in spans):
            raise Unavailable("HTTP 500", answered=True)
        if any((span["traceId"], span["id"]) in self.bad for span in spans):
            raise Rejected("HTTP 400")
        self.traces += traces

    def close(self) -> None:
        self.closed = True

    def numbers(self) -> list[int]:
        return [int(json.loads(t)[0]["traceId"], 16) for t in self.traces]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sender(store, receiver, clock=None, **settings):
    counters = Counters()
    return Sender(
        [store], receiver, ExportSettings(**settings), counters, clock=clock or Clock(), chance=lambda: 1.0
    ), counters


def settle(step, clock: Clock, until: float = 1e6) -> None:
    """Steps until nothing waits, letting the clock run through the pauses."""
    for _ in range(10_000):
        pause = step()
        if pause == math.inf or clock.now > until:
            return
        clock.now += pause
    raise AssertionError("never came to rest")


def drain(spool: Spool, most: int = 100) -> list[bytes]:
    lines = []
    while True:
        read = spool.read(most)
        if not read.traces:
            return lines
        lines += read.traces
        spool.commit(read)


def wait_for(condition, timeout_s: float = 10.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)
