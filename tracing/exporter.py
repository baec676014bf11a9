"""Takes whole kept traces and gets them to Zipkin, to a receiver of OTLP, or to both, in whatever state they are.

The ingress has an exporter, and the watchdog has one for its own actions. `submit` redacts the trace, appends it to
this process's spool and returns. A background thread sends it. So an answer never waits for a destination, and a
process that is killed right after it loses nothing: the next one adopts its spool. With two destinations there are two
spools and two threads, and neither place holds up the other's traces (`tracing.destination`).

Why not the OpenTelemetry Collector, whose `file_storage` and `sending_queue` do the same: it is a second binary that
each machine would have to run, and until a span has reached it, a killed process still loses the span. The SDK's
`BatchSpanProcessor` keeps its queue in memory, which a kill loses too, and drops a batch that Zipkin does not take.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tracing.destination import COUNTS, Destination
from tracing.export_settings import ExportSettings, OtlpDestination
from tracing.http_transport import HttpTransport
from tracing.redaction import Redaction
from tracing.sender import Counters
from tracing.storage_checked_transport import StorageCheckedTransport
from tracing.transport import FileTransport, Transport

__all__ = ["DESTINATIONS", "Exporter", "ExportSettings"]

log = logging.getLogger(__name__)

#: Names of destinations, in logs, counters and metrics.
ZIPKIN, FILE, OTLP = "zipkin", "file", "otlp"
DESTINATIONS = (ZIPKIN, FILE, OTLP)


class Exporter:
    """Exports the traces of one process.

    Args:
        settings: Where to send, and how much may wait.
        transport: Used instead of those that the settings name, for tests and for other ways out.

    Raises:
        ValueError: A file that the settings name can't be used.
    """

    def __init__(self, settings: ExportSettings, *, transport: Transport | None = None) -> None:
        self._counters = Counters()
        self._redaction = Redaction(settings.allow)
        self._closed = False
        transports = _transports(settings) if transport is None else {ZIPKIN: transport}
        _warn_of_forgotten_spools(settings.spool_dir, transports)
        self._destinations = [
            Destination(name, way_out, _spool_dir(settings.spool_dir, name), settings)
            for name, way_out in transports.items()
        ]

    def submit(self, spans: list[dict[str, Any]]) -> None:
        """Take one whole kept trace and redact it. Never raises for its content.

        On return the trace is in each destination's spool file (written, not fsynced), or in memory if there is no
        spool.

        Args:
            spans: In Zipkin v2 JSON, as `encode` makes them.
        """
        self._counters.add("submitted")
        if self._closed or not self._destinations:
            self._counters.add("dropped_closed" if self._closed else "dropped_no_destination")
            return
        clean, redacted = self._redaction.redact(spans)
        self._counters.add("redacted", redacted)
        if not clean:
            self._counters.add("dropped_empty")
            return
        line = json.dumps(clean, separators=(",", ":")).encode()
        for destination in self._destinations:
            destination.put(line)

    def counters(self) -> dict[str, int]:
        """Return counts since the start, in traces unless named otherwise.

        With two destinations, what happens to a trace on its way counts once for each of them.

        - `submitted`, `sent`, `sent_in_parts` (one of its spans was refused), `adopted`, `retries`, `failed_batches`;
        - `returned`: taken by a Zipkin whose storage was down when this exporter closed, and back in the spool;
        - `redacted`: tags, annotations and names that were taken out;
        - `dropped`, and its parts by reason: `dropped_spool_full`, `dropped_queue_full`, `dropped_poison`,
          `dropped_closed`, `dropped_no_destination`, `dropped_empty`;
        - `dropped_spans_rejected`: spans that a destination refused;
        - `waiting`: now.
        """
        counts = dict.fromkeys(("submitted", "redacted", *COUNTS), 0)
        total = Counter(self._counters.read())
        for of_one in self.destinations().values():
            total.update(of_one)
        counts.update(total)
        counts["dropped"] = sum(n for name, n in counts.items() if name.startswith("dropped_") and "spans" not in name)
        return counts

    def destinations(self) -> dict[str, dict[str, int]]:
        """Return the counts of each destination by its name, without what is counted before the ways part."""
        return {destination.name: destination.counters() for destination in self._destinations}

    def flat_counters(self) -> dict[str, int]:
        """Return `counters` as `export_<count>`, and `destinations` as `export_<destination>_<count>`."""
        flat = {f"export_{name}": count for name, count in self.counters().items()}
        for destination, counts in self.destinations().items():
            flat |= {f"export_{destination}_{name}": count for name, count in counts.items()}
        return flat

    def close(self, timeout_s: float = 2.0) -> None:
        """Send waiting traces for at most `timeout_s` and let go of the spools. The next exporter adopts the rest."""
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + timeout_s
        for destination in self._destinations:
            destination.begin_close(deadline)
        for destination in self._destinations:
            destination.end_close()


def _transports(settings: ExportSettings) -> dict[str, Transport]:
    """The ways out by destination: at most one to Zipkin or a file, and one by OTLP."""
    found: dict[str, Transport] = {}
    if settings.kafka is not None:
        from tracing.kafka_transport import KafkaTransport

        found[ZIPKIN] = KafkaTransport(settings.kafka, settings.kafka_topic, settings.timeout_s, settings.kafka_options)
    elif settings.zipkin_url is not None:
        found[ZIPKIN] = StorageCheckedTransport(
            _to_zipkin(settings, settings.zipkin_url), settings.zipkin_url, settings.timeout_s
        )
    elif settings.file is not None:
        found[FILE] = FileTransport(settings.file)
    if settings.otlp is not None:
        found[OTLP] = _by_otlp(settings.otlp, settings.timeout_s)
    return found


def _to_zipkin(settings: ExportSettings, url: str) -> Transport:
    if settings.protocol == "grpc":
        from tracing.grpc_transport import GrpcTransport

        return GrpcTransport(url, settings.timeout_s)
    if settings.protocol == "otlp":
        return _by_otlp(OtlpDestination(url=url), settings.timeout_s)
    return HttpTransport(url, settings.timeout_s)


def _by_otlp(destination: OtlpDestination, timeout_s: float) -> Transport:
    from tracing.otlp_transport import OtlpTransport  # 60 ms of imports, for those who use it

    return OtlpTransport(destination, timeout_s)


def _spool_dir(folder: Path | None, destination: str) -> Path | None:
    """OTLP's spool lies in a folder below: a process may adopt only what goes where it sends."""
    return folder / OTLP if folder is not None and destination == OTLP else folder


def _warn_of_forgotten_spools(folder: Path | None, destinations: dict[str, Transport]) -> None:
    """Say that traces wait for a destination that the settings no longer have."""
    if folder is None or not destinations:
        return
    for name, known in ((ZIPKIN, ZIPKIN in destinations or FILE in destinations), (OTLP, OTLP in destinations)):
        waiting = _spool_dir(folder, name)
        if waiting is None or known:
            continue
        size = sum(path.stat().st_size for path in waiting.glob("*.spool"))
        if size:
            log.warning(
                "%d bytes of traces for %s wait in %s, and the settings no longer name it: name it again until they "
                "are sent, or delete the files",
                size,
                name,
                waiting,
            )
