"""A cheap load generator sends one prepared request over and over on keep-alive sockets.

The client shares the machine with the measured graph. If it built a multipart form for every request, it would measure
itself.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """An answered request. Times are from `time.time_ns`, so that they compare with spans."""

    status: int
    trace_id: str
    sent_ns: int
    answered_ns: int
    size: int
    kept: bool = False  #: True: the answer links its trace in Zipkin
    closes: bool = False  #: True: the server closes the connection after it

    @property
    def ms(self) -> float:
        return (self.answered_ns - self.sent_ns) / 1e6


def multipart(
    host: str, fields: dict[str, str], clip: bytes, path: str = "/api/generate", headers: dict[str, str] | None = None
) -> bytes:
    """Make a whole HTTP/1.1 request as bytes."""
    boundary = "cosygraph-load-boundary"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="prompt_audio"; filename="clip.wav"\r\n'
        f"Content-Type: audio/wav\r\n\r\n".encode()
        + clip
        + b"\r\n"
    )
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary={boundary}\r\n"
        f"{more}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, due_ns: int | None = None
) -> Sample:
    """Send a request and read its answer. `due_ns`, if given, is the planned start, from which its time counts."""
    sent = due_ns or time.time_ns()
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    size = 0
    if "content-length" in headers:
        size = len(await reader.readexactly(int(headers["content-length"])))
    else:
        while length := int((await reader.readline()).strip() or b"0", 16):
            size += len(await reader.readexactly(length))
            await reader.readline()
        await reader.readline()
    return Sample(
        int(head[0].split()[1]),
        headers.get("x-trace-id", ""),
        sent,
        time.time_ns(),
        size,
        "x-trace-url" in headers,
        headers.get("connection", "").lower() == "close",
    )


async def closed_loop(
    host: str, port: int, request: bytes | Callable[[int], bytes], *, clients: int, count: int, timeout_s: float = 120.0
) -> list[Sample]:
    """Send `count` requests by `clients` clients; each waits for its answer before it sends again.

    `request` is the request of all of them, or a function from a number, 0 to `count` - 1, to its request.
    """
    left = iter(range(count))
    made = request if callable(request) else lambda number: request

    async def client() -> list[Sample]:
        samples: list[Sample] = []
        connection = None
        try:
            for number in left:
                if connection is None:
                    connection = await asyncio.open_connection(host, port, limit=2**20)
                samples.append(await _one(*connection, made(number)))
                if samples[-1].closes:  # as a server's answers do when it is about to be replaced
                    connection[1].close()
                    connection = None
        finally:
            if connection is not None:
                connection[1].close()
        return samples

    async with asyncio.timeout(timeout_s):
        return [sample for samples in await asyncio.gather(*(client() for _ in range(clients))) for sample in samples]


def arrivals(per_s: float, seconds: float, seed: int) -> list[float]:
    """List a Poisson process's arrivals in seconds after the start; they are the same for the same seed."""
    chance = random.Random(seed)
    moments = itertools.accumulate(chance.expovariate(per_s) for _ in itertools.count())
    return list(itertools.takewhile(lambda moment: moment < seconds, moments))


async def open_loop(
    host: str, port: int, planned: Sequence[tuple[float, bytes]], *, timeout_s: float = 120.0
) -> list[Sample]:
    """Send each request at its time, in seconds after the start, even if earlier ones are not answered yet.

    The samples are in the same order. Their times begin when they were due, so that a client that falls behind hides
    no delay.
    """
    began_ns = time.time_ns() + 50_000_000  # the first requests, too, are in the future

    async def client(at_s: float, request: bytes) -> Sample:
        due_ns = began_ns + int(at_s * 1e9)
        await asyncio.sleep((due_ns - time.time_ns()) / 1e9)
        reader, writer = await asyncio.open_connection(host, port, limit=2**20)
        try:
            return await _one(reader, writer, request, due_ns)
        finally:
            writer.close()

    async with asyncio.timeout(timeout_s):
        return list(await asyncio.gather(*(client(at_s, request) for at_s, request in planned)))


def percentile(values: list[float], share: float) -> float:
    """Compute the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]
