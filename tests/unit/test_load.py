"""The open load generator: moments that are a Poisson process, and times that begin when a request was due."""

import asyncio
import time

from bench.load import arrivals, closed_loop, open_loop


def test_arrivals_are_the_same_for_a_seed_and_come_at_the_rate():
    moments = arrivals(20, 100, seed=3)
    assert moments == arrivals(20, 100, seed=3) != arrivals(20, 100, seed=4)
    assert moments == sorted(moments) and 0 < moments[0] and moments[-1] < 100
    assert 1800 < len(moments) < 2200, "2,000 within more than four deviations"
    gaps = [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]
    longest = sum(gap > 0.1 for gap in gaps) / len(gaps)  # exp(-2) of an exponential's, none of a clockwork's
    assert 0.10 < longest < 0.17


async def slowly_one_at_a_time(planned):
    turn = asyncio.Lock()

    async def serve(reader, writer):
        name = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        async with turn:
            await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 200 OK\r\nX-Trace-Id: " + name[1:] + b"\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await open_loop("127.0.0.1", server.sockets[0].getsockname()[1], planned)


def test_nobody_waits_for_an_answer_before_he_asks_and_waiting_counts_from_when_he_was_due():
    planned = [(0.02 * number, f"GET /{number} HTTP/1.1\r\n\r\n".encode()) for number in range(5)]
    began = time.monotonic()
    samples = asyncio.run(slowly_one_at_a_time(planned))
    assert time.monotonic() - began < 0.9, "at once, beside each other"
    assert [sample.trace_id for sample in samples] == ["0", "1", "2", "3", "4"]
    assert {sample.status for sample in samples} == {200}
    due = [(sample.sent_ns - samples[0].sent_ns) / 1e9 for sample in samples]
    assert all(abs(one - at_s) < 1e-6 for one, (at_s, _) in zip(due, planned, strict=True))
    assert samples[4].ms > 400 - 80 - 1, "the last has waited for four others, that came 20 ms apart"


async def closing_every_third(count):
    connections = 0

    async def serve(reader, writer):
        nonlocal connections
        connections += 1
        for left in (2, 1, 0):
            await reader.readuntil(b"\r\n\r\n")
            how = b"" if left else b"Connection: close\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n" + how + b"Content-Length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        samples = await closed_loop("127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n", clients=1, count=count)
    return samples, connections


def test_a_connection_serves_until_the_server_says_that_it_closes_it():
    samples, connections = asyncio.run(closing_every_third(7))
    assert [sample.closes for sample in samples] == [False, False, True, False, False, True, False]
    assert connections == 3
