"""The measurement of listeners at once: what it sends, how it sums up a level, and its table and figure."""

from __future__ import annotations

import asyncio

import pytest

from bench import streams
from bench.streams import BYTES_PER_S, Heard, Texts

ROWS = [
    streams.row(count, [Heard("a", 0.5, 4.0, 0.0, True)] * good + [Heard("b", 2.0, 4.0, 0.7, False)] * (20 - good), {})
    for count, good in ((2, 20), (4, 19), (6, 12))
]


def served(parts: list[tuple[float, float]]):
    """Return a handler that answers with so many seconds of audio after each delay."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        await reader.readexactly(int(length))
        writer.write(b"HTTP/1.1 200 OK\r\nX-Trace-Id: cafe\r\nTransfer-Encoding: chunked\r\n\r\n")
        for delay_s, seconds in parts:
            await asyncio.sleep(delay_s)
            data = bytes(round(seconds * BYTES_PER_S / 2) * 2)
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    return handle


def hear(parts: list[tuple[float, float]]) -> tuple[Heard, float]:
    async def scenario() -> tuple[Heard, float]:
        async with await asyncio.start_server(served(parts), "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            began = asyncio.get_running_loop().time()
            heard = await streams.hear(port, Texts(1).request("127.0.0.1"))
            return heard, asyncio.get_running_loop().time() - began

    return asyncio.run(scenario())


def test_a_listener_plays_to_the_end_in_real_time():
    heard, took = hear([(0.2, 0.4), (0.1, 0.4)])
    assert heard.continuous and heard.seconds == pytest.approx(0.8) and heard.trace_id == "cafe"
    assert 0.15 < heard.first_audio_s < took - 0.7 and 0.95 < took < 5, "a busy machine only makes it longer"


def test_a_listener_hears_a_gap():
    heard, _ = hear([(0.0, 0.2), (0.5, 0.2)])
    assert not heard.continuous and 0.05 < heard.underrun_s < 3, "0.3 s on a machine that is never late"


def test_texts_and_clips_are_never_the_same_and_the_same_for_the_same_seed():
    source = Texts(3)
    first, second = source.request("h"), source.request("h")
    assert first != second and Texts(3).request("h") == first


def test_the_highest_level_is_one_that_was_held():
    assert [row["continuous"] for row in ROWS] == [1.0, 0.95, 0.6]
    assert streams.highest(ROWS) == 4 and streams.highest(ROWS[2:]) == 0
    assert ROWS[0]["interval"][0] < 0.95 < ROWS[0]["interval"][1], "twenty streams prove little, and it says so"


def test_the_client_and_the_servers_traces_are_compared():
    heard = [Heard("a", 0.5, 4.0, 0.0, True), Heard("b", 0.5, 4.0, 1.0, False), Heard("c", 0.5, 4.0, 0.0, True)]
    told = {"a": {"stream.underrun_ms": "0"}, "b": {"stream.underrun_ms": "400", "stream.hold_ms": "5"}}
    row = streams.row(3, heard, told)
    assert row["server_agrees"] == 0.5 and row["held_back"] == 1


def test_the_table_and_the_figure_have_both_rules():
    found = {"embedded": {"on": ROWS, "off": ROWS[1:]}}
    lines = streams.table(found).splitlines()
    assert len(lines) == 2 + 5 and "| embedded | off | 6 | 20 | 60% (39% to 78%) | 0.50, 2.00 s | 0.70 s |" in lines
    drawn = streams.figure("embedded", found["embedded"])
    assert drawn.startswith("<svg") and "with the rule: 4, without it: 4" in drawn
