"""Takes whole kept traces and gets them to Zipkin, in whatever state Zipkin is.

The ingress has an exporter, and the watchdog has one for its own actions. `submit` redacts the trace, appends it to
this process's spool and returns. A background thread sends it. So an answer never waits for Zipkin, and a process that
is killed right after it loses nothing: the next one adopts its spool.

Why not the OpenTelemetry Collector, whose `file_storage` and `sending_queue` do the same: it is a second binary that
each machine would have to run, and until a span has reached it, a killed process still loses the span. The SDK's
`BatchSpanProcessor` keeps its queue in memory, which a kill loses too, and drops a batch that Zipkin does not take.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from typing import Any

from tracing.export_settings import ExportSettings
from tracing.http_transport import HttpTransport
from tracing.redaction import Redaction
from tracing.sender import Counters, Queue, Sender
from tracing.spool import Spool
from tracing.storage_checked_transport import StorageCheckedTransport
from tracing.transport import FileTransport, Transport

__all__ = ["Exporter", "ExportSettings"]

log = logging.getLogger(__name__)

_DRAIN_TRIES, _DRAIN_PAUSE_S = 3, 0.1


class Exporter:
    """Exports the traces of one process.

    Args:
        settings: Where to send, and how much may wait.
        transport: Used instead of the one that the settings name, for tests and for other ways out.
    """

    def __init__(self, settings: ExportSettings, *, transport: Transport | None = None) -> None:
        self._settings = settings
        self._counters = Counters()
        self._redaction = Redaction(settings.allow)
        self._transport = transport or _transport(settings)
        self._queue = Queue(settings.queue_limit)
        self._spool = _spool(settings) if self._transport else None
        stores: list[Spool | Queue] = [self._queue] if self._spool is None else [self._queue, self._spool]
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if self._transport is None:
            return
        self._sender = Sender(stores, self._transport, settings, self._counters)
        # A daemon, so that it never keeps a process from ending. Unsent traces are in the spool.
        self._thread = threading.Thread(target=self._run, name="trace-export", daemon=True)
        self._thread.start()

    def submit(self, spans: list[dict[str, Any]]) -> None:
        """Take one whole kept trace and redact it. Never raises for its content.

        On return the trace is in the spool file (written, not fsynced), or in memory if there is no spool.

        Args:
            spans: In Zipkin v2 JSON, as `encode` makes them.
        """
        self._counters.add("submitted")
        if self._transport is None or self._closing.is_set():
            self._counters.add("dropped_closed" if self._closing.is_set() else "dropped_no_destination")
            return
        clean, redacted = self._redaction.redact(spans)
        self._counters.add("redacted", redacted)
        if not clean:
            self._counters.add("dropped_empty")
            return
        line = json.dumps(clean, separators=(",", ":")).encode()
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
        """Return counts since the start, in traces unless named otherwise.

        - `submitted`, `sent`, `sent_in_parts` (one of its spans was refused), `adopted`, `retries`, `failed_batches`;
        - `returned`: taken by a Zipkin whose storage was down when this exporter closed, and back in the spool;
        - `redacted`: tags, annotations and names that were taken out;
        - `dropped`, and its parts by reason: `dropped_spool_full`, `dropped_queue_full`, `dropped_poison`,
          `dropped_closed`, `dropped_no_destination`, `dropped_empty`;
        - `dropped_spans_rejected`: spans that Zipkin refused;
        - `waiting`: now.
        """
        counts = dict.fromkeys(("submitted", "sent", "adopted", "retries", "failed_batches", "redacted"), 0)
        counts.update(self._counters.read())
        counts["dropped"] = sum(n for name, n in counts.items() if name.startswith("dropped_") and "spans" not in name)
        counts["waiting"] = len(self._queue) + (len(self._spool) if self._spool is not None else 0)
        return counts

    def close(self, timeout_s: float = 2.0) -> None:
        """Send waiting traces for at most `timeout_s` and let go of the spool. The next exporter adopts the rest."""
        if self._closing.is_set():
            return
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._transport is not None and not (self._thread and self._thread.is_alive()):
            for line in self._transport.close() or ():
                self._counters.add("returned")
                self._store(line)
        if self._spool is not None:
            self._spool.close()

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
            log.error("trace export failed unexpectedly (%s); going on", type(error).__name__)
            return self._settings.retry_most_s

    def _adopt(self, spool: Spool) -> None:
        try:
            adopted = spool.adopt()
        except OSError as error:
            log.warning("spools of ended processes can't be adopted (%s)", error.strerror)
            return
        if adopted:
            self._counters.add("adopted", adopted)
            log.warning("%d traces of a process that ended were found and will be sent", adopted)


def _transport(settings: ExportSettings) -> Transport | None:
    if settings.kafka is not None:
        from tracing.kafka_transport import KafkaTransport

        return KafkaTransport(settings.kafka, settings.kafka_topic, settings.timeout_s, settings.kafka_options)
    if settings.zipkin_url is not None:
        return StorageCheckedTransport(
            _to_zipkin(settings, settings.zipkin_url), settings.zipkin_url, settings.timeout_s
        )
    if settings.file is not None:
        return FileTransport(settings.file)
    return None


def _to_zipkin(settings: ExportSettings, url: str) -> Transport:
    if settings.protocol == "grpc":
        from tracing.grpc_transport import GrpcTransport

        return GrpcTransport(url, settings.timeout_s)
    return HttpTransport(url, settings.timeout_s)


def _spool(settings: ExportSettings) -> Spool | None:
    if settings.spool_dir is None:
        return None
    try:
        return Spool(settings.spool_dir, settings.spool_limit_bytes)
    except OSError as error:
        log.warning(
            "the spool folder can't be used (%s); traces wait in memory, and a crash loses those not yet "
            "sent. Make it writable, or name another with spool_dir.",
            error.strerror,
        )
        return None
