"""For the tests of storages and transports: traces as the graph makes them, and whether Zipkin has them whole.

traces = keeping.requests(200)
keeping.export(ExportSettings(zipkin_url=url, spool_dir=folder), traces)
keeping.assert_kept(url, traces)
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping

import httpx

from bench.measuring.traces import request
from cluster import zipkin
from tracing import Exporter, ExportSettings, vocabulary


def requests(count: int, first: int = 1) -> list[list[dict]]:
    return [request(number) for number in range(first, first + count)]


def export(settings: ExportSettings, traces: list[list[dict]], within_s: float = 60.0) -> None:
    """Send them the way the ingress does, and see that the exporter knows of no loss."""
    exporter = Exporter(settings)
    for spans in traces:
        exporter.submit(spans)
    exporter.close(within_s)
    counts = exporter.counters()
    assert counts["sent"] == len(traces) and counts["dropped"] == counts["redacted"] == counts["waiting"] == 0, counts


def as_zipkin_shows(spans: list[dict]) -> list[dict]:
    """Return the spans as the API gives them back: names in lower case, absent for empty, in a fixed order."""

    def endpoint(value: dict) -> dict:
        return value | {"serviceName": value["serviceName"].lower()}

    shown = []
    for span in spans:
        span = {key: value for key, value in span.items() if value not in (None, [], {}, False)}
        span["name"] = span["name"].lower()
        span |= {key: endpoint(span[key]) for key in ("localEndpoint", "remoteEndpoint") if key in span}
        shown.append(span)
    return sorted(shown, key=lambda span: span["id"])


class Reader:
    """Zipkin's API, for asking many times."""

    def __init__(self, url: str) -> None:
        # Nobody closes a reader: it leaves no connection open behind its answer.
        closing = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False, limits=closing)
        self.trouble = ""  #: what the last failed answer said

    def _list(self, path: str, **query: str) -> list:
        """An answer's list; empty where there is nothing, or nothing yet: a storage that is just making its first
        index can't be searched for a moment, and a busy machine exceeds Zipkin's 11 s; it then answers 500 or 503."""
        answer = self.client.get(path, params=query)
        assert answer.status_code in (200, 404) or answer.status_code >= 500, answer.text
        if answer.status_code >= 500:
            self.trouble = answer.text
        return answer.json() if answer.status_code == 200 else []

    def trace(self, trace_id: str) -> list[dict]:
        return as_zipkin_shows(self._list(f"/api/v2/trace/{trace_id}"))

    def whole(self, trace_ids: list[str]) -> dict[str, list[dict]]:
        """Those of the traces that are there, by id."""
        found: dict[str, list[dict]] = {}
        for at in range(0, len(trace_ids), 50):
            some = trace_ids[at : at + 50]
            if len(some) == 1:  # asked for many, Zipkin refuses to answer for one
                answer = [self.trace(some[0])]
            else:
                answer = self._list("/api/v2/traceMany", traceIds=",".join(some))
            found |= {spans[0]["traceId"]: as_zipkin_shows(spans) for spans in answer if spans}
        return found

    def found(self, **query: str) -> set[str]:
        """Ids of the traces of the last day that a search finds."""
        answer = self._list("/api/v2/traces", lookback="86400000", limit="5000", **query)
        return {spans[0]["traceId"] for spans in answer}

    def links(self, end_ms: int | None = None, lookback_ms: int = 86_400_000) -> dict[tuple[str, str], tuple[int, int]]:
        """(parent, child) -> (calls, errors), as the dependency page shows them."""
        answer = self.client.get(
            "/api/v2/dependencies",
            params={"endTs": end_ms or int(time.time() * 1000) + 60_000, "lookback": lookback_ms},
        )
        assert answer.status_code == 200, answer.text
        return {
            (link["parent"], link["child"]): (link["callCount"], link.get("errorCount", 0)) for link in answer.json()
        }


def assert_kept(url: str, traces: list[list[dict]], within_s: float = 30.0) -> None:
    """Every trace is there by id, span for span and tag for tag, and by search; waits, because Zipkin answers before
    it stores."""
    reader, until = Reader(url), time.monotonic() + within_s
    wanted = {spans[0]["traceId"]: as_zipkin_shows(spans) for spans in traces}
    missing = dict(wanted)
    while missing:
        found = reader.whole(list(missing))
        missing = {trace_id: spans for trace_id, spans in missing.items() if found.get(trace_id) != spans}
        if missing and time.monotonic() > until:
            trace_id, spans = next(iter(missing.items()))
            assert reader.trace(trace_id) == spans, f"{len(missing)} of {len(wanted)} traces not whole {reader.trouble}"
        time.sleep(0.2 if missing else 0)
    first = next(iter(wanted))
    assert reader.trace(first) == wanted[first]
    searches: Counter[str] = Counter()
    for query, fits in (
        ({"serviceName": vocabulary.INGRESS}, lambda tags: True),
        ({"annotationQuery": "error"}, lambda tags: "error" in tags),
        (
            {"annotationQuery": "request.dialect=mandarin"},
            lambda tags: tags.get(vocabulary.REQUEST_DIALECT) == "mandarin",
        ),
    ):
        expected = {trace_id for trace_id, spans in wanted.items() if any(fits(span.get("tags", {})) for span in spans)}
        assert expected
        eventually(lambda query=query: reader.found(**query), lambda found, expected=expected: expected <= found)
        searches[str(query)] = len(expected)
    assert len(set(searches.values())) > 1, "the searches tell traces apart"


def expected_links(traces: list[list[dict]]) -> dict[tuple[str, str], tuple[int, int]]:
    """(parent, child) -> (calls, errors) as the design promises them: the ingress calls each stage once a span."""
    calls: Counter[tuple[str, str]] = Counter()
    errors: Counter[tuple[str, str]] = Counter()
    for span in (span for spans in traces for span in spans[1:]):
        callee = span.get("remoteEndpoint", span["localEndpoint"])["serviceName"]
        calls[vocabulary.INGRESS, callee] += 1
        errors[vocabulary.INGRESS, callee] += "error" in span.get("tags", {})
    return {pair: (count, errors[pair]) for pair, count in calls.items()}


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without what would lead a test to a Zipkin that is not its own."""
    return {name: value for name, value in os.environ.items() if name != "ZIPKIN_URL"} | dict(more or {})


def stop(server: zipkin.Zipkin) -> None:
    assert server.process is not None, "a Zipkin that was found, and not started, is not ours to stop"
    zipkin.stop(server.process, server.container)


def eventually(attempt, fits, within_s: float = 30.0):
    """Repeat `attempt` until its result fits, and return it; what is sent to Zipkin is stored a moment later."""
    until = time.monotonic() + within_s
    while True:
        value = attempt()
        if fits(value):
            return value
        assert time.monotonic() < until, value
        time.sleep(0.5)


def tree_is_there(url: str, spans: list[dict]) -> None:
    reader, wanted = Reader(url), len(spans)
    eventually(lambda: reader.trace(spans[0]["traceId"]), lambda found: len(found) == wanted, within_s=90)
