"""Read all traces of a time from Zipkin, page by page backwards, up to a bound; the result says what was left out.

Zipkin answers with the newest traces first, and with at most `limit` of them. The next page ends where the oldest trace
of this one was found: Zipkin sorts by the last moment at which a span of the searched service began.

If a gate before Zipkin (docs/gate.md) asks for a key, the reader sends one, reads smaller pages, and waits as long as
the gate wants.
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
from cluster.zipkin_proxy.configuration import MOST_TRACES
from tracing import vocabulary

PAGE = 500  #: traces an answer
MOST = 20_000  #: traces of the ingress that are read at most; the newest
TIMEOUT_S = 60.0  #: of one search
PATIENCE = 30  #: times in a row that the gate may say "later"
STAGE_SERVICES = tuple(vocabulary.STAGE_SERVICE.values())


@dataclass
class Read:
    """The traces that Zipkin has of a time."""

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
    """Reads from Zipkin.

    Args:
        url: Zipkin's, or the gate's.
        transport: Replaces the network in tests.
        page: Traces a page.
        most: Traces of the ingress that are read at most.
        key: For the gate; sent only if it asks.
        sleep: Waits for so many seconds.
    """

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
        self._http = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False, transport=transport)

    def read(self, window: Window) -> Read:
        """Read the traces of a time.

        Raises:
            CliError: Zipkin can't be read; the message says why, and what to do.
        """
        read = Read()
        with self._http:
            read.traces = self._all(vocabulary.INGRESS, window, read, self._most)
            read.watchdog = self._all(vocabulary.WATCHDOG, window, read, self._most // 10)
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
        """Return one page: for each trace its requests."""
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
                f"The server at {self.url} asks for a key ({answer.status_code}): it is the gate before "
                "Zipkin. Put a key with the role view-traces into COSYGRAPH_KEY (docs/gate.md), or name "
                "Zipkin itself with --zipkin-url, on the machine where it runs."
            )
        if answer.status_code >= 500:
            raise CliError(
                f"Zipkin at {self.url} answers {answer.status_code} to a search: its storage fails or is too slow, or "
                "a proxy before it does not reach it. Its own log says why (docs/storage.md). A shorter --since asks "
                "for less; --zipkin-url names another Zipkin."
            )
        try:
            traces = answer.raise_for_status().json()
            read.pages += 1
            if self._shown and traces and not any(span.get("tags") for spans in traces for span in spans):
                raise CliError(
                    f"The gate at {self.url} hides all tags from this key, and the doctor reads tags. Put a "
                    "key with the role view-traces (docs/gate.md) into COSYGRAPH_KEY, or name Zipkin itself with "
                    "--zipkin-url."
                )
            return [Trace.requests(spans) for spans in traces if spans]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as failure:
            raise CliError(
                f"The server at {self.url} is no Zipkin: {answer.status_code} to /api/v2/traces. Name "
                "Zipkin's address with --zipkin-url, for example http://127.0.0.1:9411."
            ) from failure

    def _get(self, asked: dict) -> httpx.Response:
        for _ in range(PATIENCE):
            try:
                answer = self._http.get("/api/v2/traces", params=asked)
            except httpx.ReadTimeout as failure:
                raise CliError(
                    f"Zipkin at {self.url} runs, and did not answer a search within {TIMEOUT_S:.0f} s: its storage is "
                    "too slow (docs/storage.md). Ask for less with --since, or name another Zipkin with --zipkin-url."
                ) from failure
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
        """Send the key from now on; False if there is none, or it was sent already.

        Raises:
            CliError: The connection is not encrypted.
        """
        if self._key is None or self._shown:
            return False
        where = urlsplit(self.url)
        if where.scheme != "https" and not is_loopback(where.hostname):
            raise CliError(
                f"{self.url} asks for a key, and its connection is not encrypted. Name the gate's https address with "
                "--zipkin-url."
            )
        self._http.headers["Authorization"] = f"Bearer {self._key}"
        self._page = min(self._page, MOST_TRACES)
        return True


def _began(trace: Trace) -> float:
    return (trace.root or trace.spans[0]).start_ms / 1000
