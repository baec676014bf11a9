"""One way out for kept traces: what waits for it, its thread, its counts.

An exporter has one of these for each place that it sends to. They share nothing: a place that is down holds up its own
traces only, in a spool of its own.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path

from tracing.export_settings import ExportSettings
from tracing.sender import Counters, Queue, Sender
from tracing.spool import Spool
from tracing.transport import Transport, Unconfirmed

log = logging.getLogger(__name__)

#: Counts that each destination has from the start.
COUNTS = ("sent", "adopted", "retries", "failed_batches", "waiting")
_DRAIN_TRIES, _DRAIN_PAUSE_S = 3, 0.1


class Destination:
    """Keeps redacted traces until a transport has sent them.

    Args:
        name: The name of the place, for logs and metrics: one of `exporter.DESTINATIONS`.
        transport: The way there.
        spool_dir: The folder of its spool; None keeps traces in memory.
        settings: How much may wait, and how to retry.
    """

    def __init__(self, name: str, transport: Transport, spool_dir: Path | None, settings: ExportSettings) -> None:
        self.name = name
        self._transport = transport
        self._settings = settings
        self._counters = Counters()
        self._queue = Queue(settings.queue_limit)
        self._spool = _spool(spool_dir, settings)
        stores: list[Spool | Queue] = [self._queue] if self._spool is None else [self._queue, self._spool]
        self._sender = Sender(stores, transport, settings, self._counters)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._deadline = math.inf
        # A daemon, so that it never keeps a process from ending. Unsent traces are in the spool.
        self._thread = threading.Thread(target=self._run, name=f"trace-export-{name}", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Take one redacted trace: into the spool file, or into memory if there is no spool or its disk refuses."""
        self._store(line)
        if not self._wake.is_set():
            self._wake.set()

    def _store(self, line: bytes) -> None:
        if self._spool is not None:
            try:
                self._counters.add("dropped_spool_full", self._spool.append(line))
                return
            except OSError as error:
                if self._counters.add("spool_refused") == 1:
                    log.warning(
                        "the spool's disk refuses (%s); traces wait in memory, %d at most",
                        error.strerror,
                        self._settings.queue_limit,
                    )
        self._counters.add("dropped_queue_full", self._queue.append(line))

    def counters(self) -> dict[str, int]:
        """Return the counts of this destination, as `Exporter.counters` has them."""
        waiting = len(self._queue) + (len(self._spool) if self._spool is not None else 0)
        return dict.fromkeys(COUNTS, 0) | self._counters.read() | {"waiting": waiting}

    def begin_close(self, deadline: float) -> None:
        """Send waiting traces until `deadline` (monotonic seconds), in the background, and then stop."""
        self._deadline = deadline
        self._closing.set()
        self._wake.set()

    def end_close(self) -> None:
        """Wait for that, and let go of the spool. What waits in memory goes there, or is counted as lost."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if not self._thread.is_alive():
            back = self._transport.close()
        else:  # it hangs in a send, so what the receiver took before that may not be stored either
            back = self._transport.unconfirmed() if isinstance(self._transport, Unconfirmed) else None
        for line in back or ():
            self._counters.add("returned")
            self._store(line)
        self._empty_queue()
        if self._spool is not None:
            self._spool.close()

    def _empty_queue(self) -> None:
        waiting = self._queue.read(len(self._queue))
        for done, line in enumerate(waiting.traces):
            try:
                if self._spool is None:
                    raise OSError
                self._counters.add("dropped_spool_full", self._spool.append(line))
            except OSError:  # no spool, or its disk still refuses
                lost = len(waiting.traces) - done
                self._counters.add("dropped_closed", lost)
                log.warning("%d traces that waited in memory for %s are lost with this process", lost, self.name)
                break
        self._queue.commit(waiting)

    def _run(self) -> None:
        next_adoption = -math.inf
        while not self._closing.is_set():
            if self._spool is not None and time.monotonic() >= next_adoption:
                self._adopt(self._spool)
                next_adoption = time.monotonic() + self._settings.adopt_every_s
            self._wake.clear()
            if self._closing.is_set():  # its wake-up may be the one just cleared
                break
            pause = self._step()
            if pause == 0:
                continue
            if pause < math.inf:  # the receiver fails: new traces don't shorten the pause
                self._closing.wait(min(pause, self._settings.adopt_every_s))
            elif self._wake.wait(self._settings.adopt_every_s):
                self._closing.wait(self._settings.linger_s)
        self._drain()

    def _drain(self) -> None:
        """Send at shutdown: through pauses, but only a few times against a receiver that is gone."""
        failures = 0
        while failures < _DRAIN_TRIES and time.monotonic() < self._deadline:
            pause = self._step(force=True)
            if pause == math.inf:
                return
            failures = failures + 1 if pause else 0
            time.sleep(min(pause, _DRAIN_PAUSE_S))

    def _step(self, *, force: bool = False) -> float:
        try:
            return self._sender.step(force=force)
        except Exception as error:  # a defect must not end the thread; its text could quote a span, so it is not logged
            self._counters.add("export_defects")
            log.error("trace export to %s failed unexpectedly (%s); going on", self.name, type(error).__name__)
            return self._settings.retry_most_s

    def _adopt(self, spool: Spool) -> None:
        try:
            adopted = spool.adopt()
        except OSError as error:
            log.warning("spools of ended processes can't be adopted (%s)", error.strerror)
            return
        if adopted:
            self._counters.add("adopted", adopted)
            log.warning("%d traces of a process that ended were found and will be sent to %s", adopted, self.name)


def _spool(folder: Path | None, settings: ExportSettings) -> Spool | None:
    if folder is None:
        return None
    try:
        return Spool(folder, settings.spool_limit_bytes)
    except OSError as error:
        log.warning(
            "the spool folder can't be used (%s); traces wait in memory, and a crash loses those not yet "
            "sent. Make it writable, or name another with spool_dir.",
            error.strerror,
        )
        return None
