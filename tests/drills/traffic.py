"""Clients in the background that go on, whatever becomes of their requests, until they are stopped."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from bench.measuring.clips import clip
from bench.measuring.load import closed_loop, multipart

CLIP_S = 4.0


class Traffic(threading.Thread):
    """A closed loop of `clients`, each of which pauses for `pause_s` after an answer.

    They send the forms of `mix` in turn, each with a clip. All three attributes may change while the thread runs.
    `statuses` counts the answers by status; a request without an answer counts as 0.
    """

    def __init__(self, port: int, mix: Sequence[dict[str, str]], clients: int, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.mix, self.clients, self.pause_s = list(mix), clients, pause_s
        self.statuses: Counter[int] = Counter()
        self._port, self._clip = port, clip(CLIP_S)
        self._over = threading.Event()
        self._turns = itertools.count()

    def run(self) -> None:
        asyncio.run(self._all())

    def stop(self) -> None:
        self._over.set()
        self.join(90)

    async def _all(self) -> None:
        clients: list[asyncio.Task] = []
        while not self._over.is_set():
            clients = [task for task in clients if not task.done()]
            clients += [asyncio.create_task(self._client(number)) for number in range(len(clients), self.clients)]
            await asyncio.sleep(0.2)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, number: int) -> None:
        while number < self.clients:
            form = self.mix[next(self._turns) % len(self.mix)]
            status = 0
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                [sample] = await closed_loop(
                    "127.0.0.1", self._port, multipart(f"127.0.0.1:{self._port}", form, self._clip), clients=1, count=1
                )
                status = sample.status
            self.statuses[status] += 1
            await asyncio.sleep(self.pause_s)
