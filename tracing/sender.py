"""Sends waiting traces in batches, with retries, backoff and a circuit breaker. A bad span costs no other one.

`Sender.step` sends at most one batch and returns when it wants to be called again. It has no thread and never sleeps,
so time is its caller's. The rules:

- No answer, or an error answer: everything stays. The pause doubles each time up to a limit, jittered, and is at least
  what the receiver asks for (`Retry-After`). While the receiver fails, one trace is sent as a probe instead of a batch.
- The batch is refused (400, 413): it is halved until the bad span stands alone. Only that one is dropped.
- The batch is taken, and the receiver says that it refused some of its spans (OTLP's partial success): they are
  counted, and nothing goes again.
- One trace alone is answered with errors (5xx) several times, the next trace is taken, and the first is answered with
  errors once more: the trace is at fault, and not a receiver that recovered in between. It is dropped.
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable

from tracing.export_settings import ExportSettings
from tracing.spool import Batch, Spool, TracesLost
from tracing.transport import Rejected, Transport, Unavailable

log = logging.getLogger(__name__)

_LOG_AGAIN_AFTER_S = 60.0  # a receiver that fails on and off is in the log once a minute
_LONGEST_ASKED_PAUSE_S = 300.0  # of a receiver's Retry-After; a wrong one must not stop the way out for a day
_SUSPECT_AFTER = 3  # error answers to one trace alone before the next one is tried in its place


class Counters:
    """Named counts. Any thread may add."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, by: int = 1) -> int:
        """Add to a count and return it."""
        with self._lock:
            count = self._counts.get(name, 0) + by
            if by:
                self._counts[name] = count
            return count

    def read(self) -> dict[str, int]:
        """Return all counts that are not 0."""
        with self._lock:
            return dict(self._counts)


class Queue:
    """A bounded queue of traces in memory, with the interface of `Spool`. Beyond `limit` the oldest go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._dropped_while_read = 0

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, line: bytes) -> int:
        """Add one trace. Returns how many traces had to go to make room."""
        with self._lock:
            self._lines.append(line)
            if len(self._lines) <= self._limit:
                return 0
            self._lines.popleft()
            self._dropped_while_read += 1
            return 1

    def read(self, most: int) -> Batch:
        """Return the oldest traces, at most `most`."""
        with self._lock:
            self._dropped_while_read = 0
            lines = [self._lines[i] for i in range(min(most, len(self._lines)))]
        return Batch(lines, 0, None)

    def commit(self, batch: Batch) -> None:
        """Take a batch that was sent off the queue."""
        with self._lock:
            for _ in range(len(batch.traces) - self._dropped_while_read):
                self._lines.popleft()
            self._dropped_while_read = 0


class Sender:
    """Moves traces from stores to a transport.

    Args:
        stores: Where traces wait, in the order in which they are emptied.
        transport: The way out.
        settings: Batch size and pauses.
        counters: What is sent, retried and dropped is counted here.
        clock: Seconds, monotonic.
        chance: A number in [0, 1), for the jitter.
    """

    def __init__(
        self,
        stores: list[Spool | Queue],
        transport: Transport,
        settings: ExportSettings,
        counters: Counters,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._stores = stores
        self._transport = transport
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._open_until = -math.inf
        self._next_log_at = -math.inf
        self._failure_logged = False
        self._next_refusal_log_at = -math.inf

    @property
    def failing(self) -> bool:
        """True if the receiver did not take the last batch."""
        return self._failures > 0

    def step(self, *, force: bool = False) -> float:
        """Send at most one batch.

        Args:
            force: Try even within a pause, for a last attempt at shutdown.

        Returns:
            Seconds until the next call is of use; infinity if nothing waits.
        """
        pause = self._open_until - self._clock()
        if pause > 0 and not force:
            return pause
        store = next((store for store in self._stores if len(store)), None)
        if store is None:
            return math.inf
        try:
            batch = store.read(1 if self.failing else self._settings.batch_traces)
        except TracesLost as error:
            self._count_lost(error)
            return 0.0
        except OSError as error:  # too many open files, for example: nothing is lost yet
            return self._failed(Unavailable(f"the spool can't be read: {error.strerror}"))
        if not batch.traces:
            return math.inf
        try:
            self._deliver(batch.traces)
        except Unavailable as error:
            return 0.0 if self._is_poison(store, error) else self._failed(error)
        store.commit(batch)
        self._recovered()
        return 0.0

    def _deliver(self, traces: list[bytes]) -> None:
        try:
            self._send(traces)
            self._counters.add("sent", len(traces))
            return
        except Rejected as error:
            self._counters.add("failed_batches")
            if len(traces) == 1:
                self._deliver_spans(traces[0], error)
                return
        middle = len(traces) // 2
        self._deliver(traces[:middle])
        self._deliver(traces[middle:])

    def _deliver_spans(self, trace: bytes, error: Rejected) -> None:
        """Send a refused trace span by span and drop the ones that are refused again."""
        try:
            spans = json.loads(trace)
        except ValueError:
            spans = None
        if not isinstance(spans, list) or len(spans) < 2:
            self._drop_span(error)
            return
        for span in spans:
            try:
                self._send([json.dumps([span], separators=(",", ":")).encode()])
            except Rejected as refused:
                self._drop_span(refused)
        self._counters.add("sent_in_parts")

    def _send(self, traces: list[bytes]) -> None:
        """Send once, and count the spans that the receiver took out of what it took."""
        refused = self._transport.send(traces)
        if not refused:
            return
        self._counters.add("dropped_spans_rejected", refused)
        if self._clock() >= self._next_refusal_log_at:
            self._next_refusal_log_at = self._clock() + _LOG_AGAIN_AFTER_S
            log.warning(
                "%s took a batch of %d traces and refused %d of its spans; its own log says why. This is logged once "
                "a minute",
                self._transport.name,
                len(traces),
                refused,
            )

    def _drop_span(self, error: Rejected) -> None:
        self._counters.add("dropped_spans_rejected")
        log.warning(
            "a span was refused by %s (%s) and is dropped; the others of its batch were sent",
            self._transport.name,
            error,
        )

    def _count_lost(self, lost: TracesLost) -> None:
        if lost.count:
            self._counters.add("dropped_spool_damaged", lost.count)
            log.warning("%d traces that waited for %s are gone: %s", lost.count, self._transport.name, lost)

    def _is_poison(self, store: Spool | Queue, error: Unavailable) -> bool:
        """Find out by the next trace if the first one is at fault. True takes both off the store."""
        if not error.answered or self._failures < _SUSPECT_AFTER:
            return False
        try:
            pair = store.read(2)
        except TracesLost as lost:
            self._count_lost(lost)
            return False
        except OSError:  # the next attempt says so
            return False
        if len(pair.traces) < 2:
            return False
        try:
            self._send(pair.traces[1:])
        except (Unavailable, Rejected):
            return False
        try:
            self._deliver(pair.traces[:1])
        except Unavailable as again:
            if not again.answered:
                return False  # the next one goes out twice then
            self._counters.add("dropped_poison")
            log.warning(
                "a trace was answered with errors %d times (%s) while the next one was taken; it is dropped",
                self._failures + 2,
                again.why,
            )
        store.commit(pair)
        self._counters.add("sent")
        self._recovered()
        return True

    def _failed(self, error: Unavailable) -> float:
        longest = min(self._settings.retry_most_s, self._settings.retry_first_s * 2 ** min(self._failures, 30))
        asked = min(error.retry_after_s, _LONGEST_ASKED_PAUSE_S)
        pause: float = max(asked, longest * (0.5 + 0.5 * self._chance()))
        self._open_until = self._clock() + pause
        self._failures += 1
        self._counters.add("failed_batches")
        self._counters.add("retries")
        if not self._failure_logged and self._clock() >= self._next_log_at:
            self._next_log_at = self._clock() + _LOG_AGAIN_AFTER_S
            self._failure_logged = True
            log.warning(
                "traces can't be sent (%s: %s); they wait, and sending is tried again every %.0f s at most",
                self._transport.name,
                error.why,
                self._settings.retry_most_s,
            )
        return pause

    def _recovered(self) -> None:
        if self._failure_logged:
            self._failure_logged = False
            log.warning("traces are sent again after %d failed attempts (%s)", self._failures, self._transport.name)
        self._failures = 0
        self._open_until = -math.inf
