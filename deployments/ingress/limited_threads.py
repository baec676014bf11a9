"""Threads for work of one kind that may take long, such as decoding: so many at a time, whatever clients do.

Cancelling a request ends its wait and not its thread. `asyncio.to_thread` behind a semaphore would let the next request
begin meanwhile. Clients that send slow files and leave would so take every thread of the process, which all requests
need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class LimitedThreads:
    """Runs functions in `count` threads of its own. `place` holds a place over several functions.

    Args:
        count: of threads, and of places.
        name: of the threads, for those who look at the process.
    """

    def __init__(self, count: int, name: str) -> None:
        self.place = asyncio.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns. One that has not begun when the caller is cancelled is never begun."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))
