"""Continuous batching: requests join and leave the compute thread's work between any two steps of the model.

The counterpart of `batching.py` for a model that offers `submit`, `cancel` and `step`
(`engines.contract.ContinuousAcousticModel`). A batcher would start a batch and admit no request until its longest
member is done. Here a short request that comes second is answered first.

One thread does everything with the model, turn by turn: cancel the requests that have left, submit those that wait,
compute one step, hand out what is finished. It runs while there are requests and needs no event loop between two
steps, so a busy event loop does not slow the steps down.

Streaming requests receive chunks until the last, or until TextWanted: a text that is still coming has run out.

If a step raises, every request that had joined is taken out and computed again alone, so that only a bad one fails.
The others wait until that is over. A request that had not joined had no part in it and just waits. A stream that is
computed again continues the same speech: the model is given the tokens that it had said, because the same seed alone
gives other ones in half precision. Chunks that were handed out already are skipped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor

from deployments.safe_traceback import safe_traceback
from deployments.scaling.work_log import WorkLog
from deployments.stages.compute_queue import Batched
from engines.contract import ContinuousAcousticModel, Mel, MelChunk, Reach, Said, TextWanted, Ticket, Voice
from speech.errors import RETRY_AFTER_SUCCESSOR_S, StageUnavailable
from speech.utterance import Utterance
from tracing import vocabulary

log = logging.getLogger("ray.serve")

Outcome = Batched[Mel | MelChunk | TextWanted | Exception]


class _Request:
    """One request in the queue or in the model.

    `future` and `chunks` belong to the request's event loop; the compute thread only asks whether `future` was
    cancelled. `chunks` is None for a request that wants the whole result; a stream's results go into it.
    """

    __slots__ = ("item", "loop", "future", "arrived_ns", "dequeued_ns", "chunks", "reached", "said")

    def __init__(
        self,
        item: tuple[Utterance, Voice],
        arrived_ns: int,
        stream: bool,
        said: Said = (),
        beyond: Reach | None = None,
    ) -> None:
        self.item = item
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Outcome] = self.loop.create_future()
        self.arrived_ns = arrived_ns
        self.dequeued_ns: int | None = None
        self.chunks: asyncio.Queue[Outcome] | None = asyncio.Queue() if stream else None
        self.reached = beyond  # `MelChunk.reaches` of the last chunk handed out, here or before
        self.said = said  # a stream's tokens from before: the model goes on after them

    @property
    def left(self) -> bool:
        return self.future.cancelled()

    def deliver(self, outcome: Outcome) -> None:
        try:
            self.loop.call_soon_threadsafe(self._set if self.chunks is None else self.chunks.put_nowait, outcome)
        except RuntimeError:
            pass  # its event loop is closed: no caller waits any more

    def _set(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


class ContinuousBatcher:
    """A `StreamingComputeQueue` around a continuous model.

    Args:
        model: as loaded in the thread of `executor`.
        executor: of one thread; nothing else may compute with the model.
        clock: ns since the epoch, the same as the model's.
        stopwatch: seconds; it does not jump when the clock is set, or a long step would look like a hanging one.
    """

    def __init__(
        self,
        model: ContinuousAcousticModel,
        executor: Executor,
        clock: Callable[[], int] = time.time_ns,
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._executor = executor
        self._clock = clock
        self._lock = threading.Lock()  # of the three below, which event loop and compute thread share
        self._waiting: deque[_Request] = deque()
        self._rows: int | None = None  # settings that the next turn applies
        self._wait_ms: float | None = None
        self._running = False
        self._closed = False
        self._stopwatch = stopwatch
        self._turn_since_s: float | None = None
        self._work = WorkLog()
        self._most = model.rows
        # The compute thread's own:
        self._in_model: dict[Ticket, _Request] = {}
        self._retries: deque[_Request] = deque()  # to be computed alone
        self._alone: _Request | None = None  # the one that is computed alone now

    def configure(self, *, max_batch_size: int | None = None, batch_wait_ms: float | None = None) -> None:
        """Change settings from the next step on.

        Args:
            max_batch_size: rows that are used at a time. More rows than the model has are cut down, with a warning.
            batch_wait_ms: how long rows that are done with the language model wait for company in the flow.

        Raises:
            ValueError: a value is out of range.
        """
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
        with self._lock:
            if max_batch_size is not None:
                self._rows = self._most = min(max_batch_size, self._model.rows)
            if batch_wait_ms is not None:
                self._wait_ms = batch_wait_ms

    def running_s(self) -> float:
        """Return the seconds for which the present step has been computing; 0 between steps."""
        since = self._turn_since_s
        return 0.0 if since is None else self._stopwatch() - since

    def work_stats(self) -> dict[str, float]:
        """Return what this queue has done, for the scaling policy. A step of the model is a step; its rows, members."""
        with self._lock:
            waiting = len(self._waiting)
        return self._work.stats(waiting=waiting + self._model.waiting, computing=self._model.decoding, batch=self._most)

    async def submit(self, item: tuple[Utterance, Voice], due_ns: float = float("inf")) -> Outcome:
        """Add a request and wait for its outcome. One that failed has its exception as `value`.

        Deadlines are ignored: requests decode side by side, and rows are given out in the order of arrival. Cancelled,
        the request leaves at the next step.

        Returns:
            The outcome. `started_ns` is when the request joined, `size` with how many it was computed on average,
            `batch_id` the batch that finished it. The last two are None for a request that never joined.
        """
        return await self._add_request(item, stream=False).future

    async def stream(
        self, item: tuple[Utterance, Voice], said: Said = (), beyond: Reach | None = None
    ) -> AsyncGenerator[Outcome, None]:
        """Add a request and yield its chunks as they are made, up to the last one, TextWanted, or an exception.

        Closed or cancelled before, the request leaves at the next step.

        Args:
            item: what to say, and the voice.
            said: the tokens of the same stream so far, if its replica was lost or its text ran out.
            beyond: `MelChunk.reaches` of its last chunk; only chunks that reach further are made.
        """
        request = self._add_request(item, stream=True, said=said, beyond=beyond)
        assert request.chunks is not None
        try:
            while True:
                outcome = await request.chunks.get()
                yield outcome
                if not isinstance(outcome.value, MelChunk) or outcome.value.last:
                    return
        finally:
            request.future.cancel()

    def _add_request(
        self, item: tuple[Utterance, Voice], stream: bool, said: Said = (), beyond: Reach | None = None
    ) -> _Request:
        request = _Request(item, self._clock(), stream, said, beyond)
        self._work.arrive()
        with self._lock:
            if self._closed:
                raise _stopping()
            self._waiting.append(request)
            if not self._running:
                self._executor.submit(self._run)
                self._running = True
        return request

    def close(self) -> None:
        """Stop after the present step; requests that are still here fail with StageUnavailable."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=False)

    def _run(self) -> None:
        """Take turns in the compute thread for as long as there are requests."""
        while True:
            self._turn_since_s = self._stopwatch()
            try:
                more = self._turn()
            except Exception as error:
                log.error(
                    "decoding failed beside the model's step; all requests under way fail: %s", safe_traceback(error)
                )
                more = self._fail_all(error)
            self._turn_since_s = None
            if not more:
                return

    def _turn(self) -> bool:
        """Take one turn. False if no request is left: the next one to come starts the thread again."""
        with self._lock:
            rows, wait_ms = self._rows, self._wait_ms
            self._rows = self._wait_ms = None
        if rows is not None or wait_ms is not None:
            self._model.configure(rows=rows, wait_ms=wait_ms)
        if self._closed:
            return self._fail_all(_stopping())
        for ticket in [ticket for ticket, request in self._in_model.items() if request.left]:
            self._cancel(ticket)
        self._schedule()
        if self._in_model:
            self._step()
        return self._has_requests()

    def _has_requests(self) -> bool:
        with self._lock:
            self._running = bool(self._in_model or self._retries or self._waiting)
            return self._running

    def _schedule(self) -> None:
        if self._retries or self._alone is not None:
            while self._retries and self._alone is None:
                request = self._retries.popleft()
                if self._submit(request):
                    self._alone = request
            return
        while (waiting := self._next()) is not None:
            self._submit(waiting)

    def _next(self) -> _Request | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _submit(self, request: _Request) -> bool:
        """Give a request to the model. False if it left, or if the model rejected it."""
        if request.left:
            return False
        request.dequeued_ns = request.dequeued_ns or self._clock()
        try:
            ticket = (
                self._model.submit(*request.item)
                if request.chunks is None
                else self._model.submit(*request.item, stream=True, said=request.said, beyond=request.reached)
            )
        except Exception as error:
            self._deliver(request, None, error)
            return False
        if isinstance(ticket, Exception):
            self._deliver(request, None, ticket)
            return False
        self._in_model[ticket] = request
        return True

    def _step(self) -> None:
        began_ns, decoding = self._clock(), self._model.decoding
        try:
            finished = self._model.step()
        except Exception as error:
            self._recover(error)
            return
        self._work.step(max(1, decoding, self._model.decoding), (self._clock() - began_ns) / 1e9)
        for ticket, value in finished:
            if isinstance(value, MelChunk) and not value.last:
                self._deliver_chunk(ticket, value)
            else:
                self._deliver(self._forget(ticket), ticket, value)

    def _deliver_chunk(self, ticket: Ticket, chunk: MelChunk) -> None:
        request = self._in_model[ticket]
        if request.reached is None or chunk.reaches > request.reached:
            request.reached = chunk.reaches
            self._deliver(request, ticket, chunk)

    def _recover(self, error: Exception) -> None:
        """Take every request out of the model after a step has raised, and lose none of them."""
        requests = list(self._in_model.items())
        joined = [ticket.joined_ns is not None for ticket, _ in requests]
        # Where it raised before any had joined, no request can be told from another.
        suspects = [entry for entry, had_part in zip(requests, joined, strict=True) if had_part or not any(joined)]
        log.error("a step with %d requests failed: %s", len(suspects), safe_traceback(error))
        bystanders = [request for ticket, request in requests if (ticket, request) not in suspects]
        for ticket, request in requests:
            if request.chunks is not None and ticket.joined_ns is not None:
                request.said = ticket.said  # which is gone once it is cancelled
            self._model.cancel(ticket)  # a model that can't even do that fails all of them: none is forgotten yet
        for ticket, _ in requests:
            self._forget(ticket)
        if len(suspects) == 1:
            [(ticket, request)] = suspects
            self._deliver(request, ticket, error)
        else:
            self._retries.extend(request for _, request in suspects)
        with self._lock:
            self._waiting.extendleft(reversed(bystanders))

    def _cancel(self, ticket: Ticket) -> None:
        self._model.cancel(ticket)
        self._forget(ticket)

    def _forget(self, ticket: Ticket) -> _Request:
        request = self._in_model.pop(ticket)
        if request is self._alone:
            self._alone = None
        return request

    def _fail_all(self, error: Exception) -> bool:
        """Fail every request: none may be left waiting for a result that will not come. Returns False: none is left."""
        in_model, self._in_model = self._in_model, {}
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            self._running = False
        waiting.extendleft(reversed(self._retries))
        self._retries.clear()
        self._alone = None
        for ticket in in_model:
            try:
                self._model.cancel(ticket)
            except Exception as failure:
                log.error("a ticket could not be cancelled: %s", safe_traceback(failure))
        for ticket, request in in_model.items():
            self._deliver(request, ticket, error)
        for request in waiting:
            self._deliver(request, None, error)
        return False

    def _deliver(
        self, request: _Request, ticket: Ticket | None, value: Mel | MelChunk | TextWanted | Exception
    ) -> None:
        now = self._clock()
        joined = ticket.joined_ns if ticket is not None else None
        if not isinstance(value, MelChunk) or value.last:
            self._work.finish()
            self._work.wait(((now if joined is None else joined) - request.arrived_ns) / 1e9)
        request.deliver(
            Batched(
                value,
                ticket.batch_id if ticket is not None else None,
                ticket.batch_size if ticket is not None else None,
                request.arrived_ns,
                request.dequeued_ns,
                now if joined is None else joined,
                now,
            )
        )


def _stopping() -> StageUnavailable:
    return StageUnavailable(
        f"{vocabulary.TTS} is being stopped; try again shortly.",
        retry_after_s=RETRY_AFTER_SUCCESSOR_S,
        service=vocabulary.TTS,
    )
