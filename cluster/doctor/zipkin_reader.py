"""All traces of a time out of Zipkin, page by page backwards, up to a bound; what was left out is said.

Zipkin answers with the newest traces first and at most `limit` of them. The next page ends where the oldest of this one
was found: at the last moment at which a span of the asked service began, for that is what Zipkin sorts by.

Where the gate before Zipkin (docs/gate.md) asks for a key, it gets one if there is one, and is asked for smaller pages,
as slowly as it wants.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from access.required import is_loopback
from cluster.cli_error import CliError
from cluster.doctor.traces import Trace
from cluster.doctor.window import Window
from cluster.gate.configuration import MOST_TRACES
from tracing import vocabulary as words

PAGE = 500  #: traces an answer
MOST = 20_000  #: traces of the ingress that are read at most; the newest
PATIENCE = 30  #: times in a row that the gate may say "later"
STAGE_SERVICES = tuple(words.STAGE_SERVICE.values())


@dataclass
class Read:
    """What Zipkin has of a time."""

    traces: list[Trace] = field(default_factory=list)  #: with a span of the ingress's, newest first
    orphans: list[Trace] = field(default_factory=list)  #: of the stages, without any
    watchdog: list[Trace] = field(default_factory=list)
    pages: int = 0
    cut_at: float | None = None  #: seconds since the epoch: what is older was not read
    skipped: int = 0  #: moments with more traces than a page holds

    def counts(self) -> dict:
        return {
            "traces": len(self.traces),
            "spans": sum(len(trace.spans) for trace in self.traces),
            "orphans": len(self.orphans),
            "watchdog": len(self.watchdog),
            "pages": self.pages,
            "cut_at": self.cut_at,
            "crowded_moments": self.skipped,
        }


class ZipkinReader:
    """Problem, with cause and remedy, where Zipkin can't be read. `key`: for the gate, shown only if it asks."""

    def __init__(
        self,
        url: str,
        transport: httpx.BaseTransport | None = None,
        *,
        page: int = PAGE,
        most: int = MOST,
        key: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/zipkin")
        self._page, self._most = page, most
        self._key, self._sleep = key, sleep
        self._http = httpx.Client(base_url=self.url, timeout=60, trust_env=False, transport=transport)

    def read(self, window: Window) -> Read:
        read = Read()
        with self._http:
            read.traces = self._all(words.INGRESS, window, read, self._most)
            read.watchdog = self._all(words.WATCHDOG, window, read, self._most // 10)
            known = {trace.id for trace in read.traces}
            begin = max(window.begin, read.cut_at or 0)
            found: dict[str, Trace] = {}
            for service in STAGE_SERVICES:  # the newest of each: a broken exporter breaks more than one trace
                for [trace, *_] in self._ask(service, Window(begin, window.end), window.end, read):
                    if trace.id not in known and trace.root is None:
                        found[trace.id] = trace
            read.orphans = list(found.values())
        return read

    def _all(self, service: str, window: Window, read: Read, most: int) -> list[Trace]:
        found: dict[tuple, Trace] = {}
        end = window.end
        while True:
            page = self._ask(service, window, end, read)
            fresh = [request for trace in page for request in trace if request.key not in found]
            found.update((request.key, request) for request in fresh)
            if len(page) < self._page:
                break
            oldest = (
                min(
                    max(
                        (span.start_ms for request in trace for span in request.spans if span.service == service),
                        default=math.inf,
                    )
                    for trace in page
                )
                / 1000
            )
            earlier = math.ceil(oldest * 1000) / 1000 if oldest < end else end
            if not fresh or earlier >= end:  # more of one millisecond than a page holds
                earlier = end - 0.001
                read.skipped += 1
            end = earlier
            if len(found) >= most:
                read.cut_at = end
                break
            if end <= window.begin:
                break
        return [trace for trace in found.values() if _began(trace) >= window.begin]

    def _ask(self, service: str, window: Window, end: float, read: Read) -> list[list[Trace]]:
        """A page: of each trace the requests in it."""
        asked = {
            "serviceName": service,
            "endTs": round(end * 1000),
            "limit": self._page,
            "lookback": max(1, round((end - window.begin) * 1000)),
        }
        answer = self._get(asked)
        if answer.status_code == 401 and self._show_key():
            answer = self._get(asked | {"limit": self._page})
        if answer.status_code in (401, 403):
            raise CliError(
                f"What answers at {self.url} asks for a key ({answer.status_code}): it is the gate before "
                "Zipkin. Put a key with the role view-traces into COSYGRAPH_KEY (docs/gate.md), or name "
                "Zipkin itself with --zipkin-url, on the machine where it runs."
            )
        try:
            traces = answer.raise_for_status().json()
            read.pages += 1
            if self._shown and traces and not any(span.get("tags") for spans in traces for span in spans):
                raise CliError(
                    f"The gate at {self.url} shows this key no tags, and the doctor reads little else. It "
                    "needs a key with the role view-traces (docs/gate.md) in COSYGRAPH_KEY, or --zipkin-url "
                    "of Zipkin itself."
                )
            return [Trace.requests(spans) for spans in traces if spans]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as failure:
            raise CliError(
                f"What answers at {self.url} is no Zipkin: {answer.status_code} to /api/v2/traces. Name "
                "Zipkin's address with --zipkin-url, for example http://127.0.0.1:9411."
            ) from failure

    def _get(self, asked: dict) -> httpx.Response:
        for _ in range(PATIENCE):
            try:
                answer = self._http.get("/api/v2/traces", params=asked)
            except httpx.HTTPError as failure:
                raise CliError(
                    f"Zipkin at {self.url} doesn't answer ({type(failure).__name__}). Start it (`make up`), "
                    "or name the one that runs with --zipkin-url."
                ) from failure
            if answer.status_code != 429:
                return answer
            wait = answer.headers.get("retry-after", "")
            self._sleep(min(float(wait), 10.0) if wait.isdecimal() else 1.0)
        raise CliError(
            f"The gate at {self.url} lets no more requests through for now (429). Ask again in a minute, or "
            "for less with --since."
        )

    @property
    def _shown(self) -> bool:
        return "Authorization" in self._http.headers

    def _show_key(self) -> bool:
        """Whether there is a key that was not shown yet; from now on it is. Problem where all could read it."""
        if self._key is None or self._shown:
            return False
        where = urlsplit(self.url)
        if where.scheme != "https" and not is_loopback(where.hostname):
            raise CliError(
                f"{self.url} asks for a key, and over http everybody on the way could read it. Name the "
                "gate's https address with --zipkin-url."
            )
        self._http.headers["Authorization"] = f"Bearer {self._key}"
        self._page = min(self._page, MOST_TRACES)
        return True


def _began(trace: Trace) -> float:
    return (trace.root or trace.spans[0]).start_ms / 1000
