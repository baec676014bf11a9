"""Continuous batching: requests join and leave the compute thread's work between any two steps of the model.

The counterpart of `batching.py` for a model that offers `submit`, `cancel` and `step`
(`engines.contract.ContinuousAcousticModel`). A batcher would start a batch and let nobody in before its longest member
is through; here a short request that comes second is answered first.

One thread does everything with the model, turn by turn: take out who has left, let in who has come, one step, hand back
who is finished. It runs while anybody is there and needs no event loop between two steps, so a busy one does not slow
them down.

Who streams is handed chunks as they are made, and is there until the last one.

Where a step raises, who had joined is taken out and computed again, each alone, so that only a bad one fails; the
others wait until that is over. Who had not joined had no part in it, and just waits. A stream that is computed again
goes on where it was: the same seed says the same, and what was handed out already is passed over.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor

from deployments.safe_traceback import safe_traceback
from deployments.stages.batching import Batched
from engines.contract import ContinuousAcousticModel, Mel, MelChunk, Ticket, Utterance, Voice
from speech.errors import StageUnavailable

log = logging.getLogger("ray.serve")


class _Member:
    """One request. `future` and `chunks` belong to its event loop; the compute thread only asks whether `future` was
    given up. `chunks` is None for who wants the whole; a stream's results go there, and its future has none."""

    __slots__ = ("item", "loop", "future", "arrived_ns", "chunks", "reached")

    def __init__(self, item: tuple[Utterance, Voice], arrived_ns: int, stream: bool) -> None:
        self.item = item
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Batched[Mel | Exception]] = self.loop.create_future()
        self.arrived_ns = arrived_ns
        self.chunks: asyncio.Queue[Batched[MelChunk | Exception]] | None = asyncio.Queue() if stream else None
        self.reached: tuple | None = None  # `MelChunk.reaches` of the last one that was handed out

    @property
    def left(self) -> bool:
        return self.future.cancelled()

    def answer(self, done: Batched[Mel | MelChunk | Exception]) -> None:
        try:
            self.loop.call_soon_threadsafe(self._set if self.chunks is None else self.chunks.put_nowait, done)
        except RuntimeError:
            pass  # its event loop is closed: nobody waits any more

    def _set(self, done: Batched[Mel | Exception]) -> None:
        if not self.future.done():
            self.future.set_result(done)


class ContinuousBatcher:
    """Runs a continuous model for whoever calls `settle(item)`.

    Args:
        model: as loaded in the thread of `executor`.
        executor: of one thread; nobody else may compute with the model.
        clock: ns since the epoch, the same as the model's.
    """

    def __init__(
        self, model: ContinuousAcousticModel, executor: Executor, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._model = model
        self._executor = executor
        self._clock = clock
        self._lock = threading.Lock()  # of the three below, which event loop and compute thread share
        self._queue: deque[_Member] = deque()
        self._settings: dict[str, float] = {}
        self._running = False
        self._closed = False
        self._turn_since_ns: int | None = None
        # The compute thread's own:
        self._in_hand: dict[Ticket, _Member] = {}
        self._again: deque[_Member] = deque()  # to be computed alone
        self._alone: _Member | None = None  # who is

    def configure(self, *, max_batch_size: int | None = None, batch_wait_ms: float | None = None) -> None:
        """From the next step on: rows that are taken at a time, and how long rows that are through with the language
        model wait for company in the flow. More rows than the model has are cut down to those, with a warning."""
        if max_batch_size is not None:
            if max_batch_size < 1:
                raise ValueError(f"max_batch_size must be at least 1, not {max_batch_size}")
            if max_batch_size > self._model.rows:
                log.warning(
                    "max_batch_size is %d and the model has memory for %d rows: %d are used; the engine's "
                    "options say how many it has",
                    max_batch_size,
                    self._model.rows,
                    self._model.rows,
                )
        if batch_wait_ms is not None and batch_wait_ms < 0:
            raise ValueError(f"batch_wait_ms must not be negative, not {batch_wait_ms}")
        given = {"rows": max_batch_size and min(max_batch_size, self._model.rows), "wait_ms": batch_wait_ms}
        with self._lock:
            self._settings |= {name: value for name, value in given.items() if value is not None}

    def running_s(self) -> float:
        """How long the step under way has been computing; 0 between steps."""
        since = self._turn_since_ns
        return 0.0 if since is None else (self._clock() - since) / 1e9

    async def settle(
        self, item: tuple[Utterance, Voice], deadline_ns: float = float("inf")
    ) -> Batched[Mel | Exception]:
        """Wait for the item's result. One that failed has its exception as `value`. Rows are given out in the order of
        arrival: a deadline changes nothing, as who comes later does not wait for who came before to be through.

        Of the result, `started_ns` is when it joined, `size` with how many it was computed on average, `batch_id` the
        batch that finished it; the last two are None for one that never joined. Cancelled, it leaves at the next step.
        """
        return await self._enter(item, stream=False).future

    async def stream(self, item: tuple[Utterance, Voice]) -> AsyncIterator[Batched[MelChunk | Exception]]:
        """The item's chunks as they are made, up to the one that is last, or to an exception as `value`.

        Closed or cancelled before, it leaves at the next step.
        """
        member = self._enter(item, stream=True)
        try:
            while True:
                done = await member.chunks.get()
                yield done
                if isinstance(done.value, Exception) or done.value.last:
                    return
        finally:
            member.future.cancel()

    def _enter(self, item: tuple[Utterance, Voice], stream: bool) -> _Member:
        member = _Member(item, self._clock(), stream)
        with self._lock:
            if self._closed:
                raise _stopping()
            self._queue.append(member)
            if not self._running:
                self._executor.submit(self._run)
                self._running = True
        return member

    def close(self) -> None:
        """Stop after the step under way; who is still there is told so."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=False)

    def _run(self) -> None:
        """In the compute thread, for as long as anybody is there."""
        while True:
            self._turn_since_ns = self._clock()
            try:
                more = self._turn()
            except Exception as error:
                log.error(
                    "decoding failed beside the model's step; all requests under way fail: %s", safe_traceback(error)
                )
                more = self._give_up(error)
            self._turn_since_ns = None
            if not more:
                return

    def _turn(self) -> bool:
        """False where nobody is there any more: the next one to come starts it again."""
        with self._lock:
            settings, self._settings = self._settings, {}
        if settings:
            self._model.configure(**settings)
        if self._closed:
            return self._give_up(_stopping())
        for ticket in [ticket for ticket, member in self._in_hand.items() if member.left]:
            self._take_out(ticket)
        self._let_in()
        if self._in_hand:
            self._step()
        return self._anybody()

    def _anybody(self) -> bool:
        with self._lock:
            self._running = bool(self._in_hand or self._again or self._queue)
            return self._running

    def _let_in(self) -> None:
        if self._again or self._alone is not None:
            while self._again and self._alone is None:
                member = self._again.popleft()
                if self._submit(member):
                    self._alone = member
            return
        while (member := self._next()) is not None:
            self._submit(member)

    def _next(self) -> _Member | None:
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def _submit(self, member: _Member) -> bool:
        """Whether it is in hand now."""
        if member.left:
            return False
        try:
            found = (
                self._model.submit(*member.item)
                if member.chunks is None
                else self._model.submit(*member.item, stream=True)
            )
        except Exception as error:
            found = error
        if isinstance(found, Exception):
            self._answer(member, None, found)
            return False
        self._in_hand[found] = member
        return True

    def _step(self) -> None:
        try:
            finished = self._model.step()
        except Exception as error:
            self._recover(error)
            return
        for ticket, value in finished:
            if isinstance(value, MelChunk) and not value.last:
                self._hand_out(ticket, value)
            else:
                self._answer(self._forget(ticket), ticket, value)

    def _hand_out(self, ticket: Ticket, chunk: MelChunk) -> None:
        member = self._in_hand[ticket]
        if member.reached is None or chunk.reaches > member.reached:
            member.reached = chunk.reaches
            self._answer(member, ticket, chunk)

    def _recover(self, error: Exception) -> None:
        """A step has raised: everybody leaves the model, and nobody is lost."""
        here = list(self._in_hand.items())
        joined = [ticket.joined_ns is not None for ticket, _ in here]
        # Where it raised before anybody joined, nobody can be told from anybody else.
        suspects = [entry for entry, had_part in zip(here, joined, strict=True) if had_part or not any(joined)]
        log.error("a step with %d requests failed: %s", len(suspects), safe_traceback(error))
        waiting = [member for ticket, member in here if (ticket, member) not in suspects]
        for ticket, _ in here:
            self._take_out(ticket)
        if len(suspects) == 1:
            [(ticket, member)] = suspects
            self._answer(member, ticket, error)
        else:
            self._again.extend(member for _, member in suspects)
        with self._lock:
            self._queue.extendleft(reversed(waiting))

    def _take_out(self, ticket: Ticket) -> None:
        self._model.cancel(ticket)
        self._forget(ticket)

    def _forget(self, ticket: Ticket) -> _Member:
        member = self._in_hand.pop(ticket)
        if member is self._alone:
            self._alone = None
        return member

    def _give_up(self, error: Exception) -> bool:
        """Nobody may be left waiting for what will not come. False: nobody is there any more."""
        tickets, self._in_hand = self._in_hand, {}
        with self._lock:
            waiting, self._queue = self._queue, deque()
            self._running = False
        waiting.extendleft(reversed(self._again))
        self._again.clear()
        self._alone = None
        for ticket in tickets:
            try:
                self._model.cancel(ticket)
            except Exception as failure:
                log.error("a ticket could not be cancelled: %s", safe_traceback(failure))
        for ticket, member in tickets.items():
            self._answer(member, ticket, error)
        for member in waiting:
            self._answer(member, None, error)
        return False

    def _answer(self, member: _Member, ticket: Ticket | None, value: Mel | MelChunk | Exception) -> None:
        now = self._clock()
        joined = ticket.joined_ns if ticket is not None else None
        member.answer(
            Batched(
                value,
                ticket and ticket.batch_id,
                ticket and ticket.batch_size,
                member.arrived_ns,
                now if joined is None else joined,
                now,
            )
        )


def _stopping() -> StageUnavailable:
    return StageUnavailable("tts-service is being stopped; try again shortly.", retry_after_s=1)
