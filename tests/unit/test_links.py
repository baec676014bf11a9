"""The day's dependency links: which traces are read, what is written, and Zipkin's own linker run for real."""

from __future__ import annotations

import json
from datetime import date

import httpx
import pytest

from cluster import java_source, links, maven, zipkin_jar
from cluster.cli_error import CliError
from cluster.linker import Link, Linker

DAY = date(2026, 3, 14)
MIDNIGHT_US = 1_773_446_400_000_000  # the beginning of DAY in UTC
HOUR_US = 3_600_000_000


class Search:
    """As much of Elasticsearch as is asked for: scrolls over `hits` (sorted by the caller), and `_bulk`."""

    def __init__(self, hits=(), page=2, existing=()) -> None:
        self.hits, self.page, self.existing = list(hits), page, list(existing)
        self.queries: list[dict] = []
        self.bulk: list[dict] = []
        self.scrolled = self.closed = self.failed_shards = 0
        self.bulk_error = None

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="http://search", transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, request.content
        if request.method == "HEAD":
            return httpx.Response(200 if self.hits else 404)
        if path.endswith("_count"):
            return httpx.Response(200, json={"count": len(self.hits)})
        if path.endswith("_refresh"):
            return httpx.Response(200, json={})
        if path.endswith("_bulk"):
            self.bulk = [json.loads(line) for line in body.splitlines()]
            items = [{"index": {"error": {"reason": self.bulk_error}}}] if self.bulk_error else []
            return httpx.Response(200, json={"errors": bool(items), "items": items})
        if request.method == "DELETE":
            self.closed += 1
            return httpx.Response(200, json={})
        if path.endswith("/_search"):
            self.queries.append(json.loads(body))
            self.pending = [{"_id": name} for name in self.existing] if "dependency" in path else list(self.hits)
        else:
            self.scrolled += 1
        hits, self.pending = self.pending[: self.page], self.pending[self.page :]
        return httpx.Response(
            200, json={"_scroll_id": "s", "_shards": {"failed": self.failed_shards}, "hits": {"hits": hits}}
        )


def hit(trace_id: str, at_us: int | None, day: str = "2026-03-14") -> dict:
    span = {"traceId": trace_id, "id": "1"} | ({"timestamp": at_us} if at_us is not None else {})
    return {"_index": f"zipkin-span-{day}", "_source": span}


def test_days():
    today = date(2026, 11, 22)
    assert [links.parse_day(text, today) for text in ("today", "yesterday", "2026-01-31")] == [
        today,
        date(2026, 11, 21),
        date(2026, 1, 31),
    ]
    with pytest.raises(ValueError):
        links.parse_day("22.11.2026", today)


@pytest.mark.parametrize("answered", [0, 4])
def test_a_storage_that_breaks_off_is_said_and_not_hidden_by_what_is_tidied_up_afterwards(answered):
    search, asked = Search([hit("a", MIDNIGHT_US), hit("b", MIDNIGHT_US), hit("c", MIDNIGHT_US)]), []

    def until_it_breaks(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) > answered:
            raise httpx.ConnectError("refused")
        return search.answer(request)

    client = httpx.Client(base_url="http://search", transport=httpx.MockTransport(until_it_breaks))
    with pytest.raises(CliError, match="broke off.*again"):
        list(links.read_traces(client, DAY))


def test_large_days_are_read_in_pieces():
    assert links.pieces(links.PIECE_SPANS) == [""]
    assert links.pieces(links.PIECE_SPANS + 1) == list("0123456789abcdef")
    pieces = links.pieces(43_000_000)
    assert len(pieces) == len(set(pieces)) == 256 and {len(piece) for piece in pieces} == {2}


def test_traces_are_whole_over_pages_and_belong_to_the_day_they_began():
    search = Search(
        [
            hit("a", MIDNIGHT_US + 5),
            hit("a", MIDNIGHT_US + 9),
            hit("a", MIDNIGHT_US + 1),
            hit("b", MIDNIGHT_US - 2, "2026-03-13"),
            hit("b", MIDNIGHT_US + 2),
            hit("c", MIDNIGHT_US + 24 * HOUR_US - 1),
            hit("c", MIDNIGHT_US + 24 * HOUR_US + 1, "2026-03-15"),
            hit("d", MIDNIGHT_US + 24 * HOUR_US, "2026-03-15"),
            hit("e", None),
            hit("f", None, "2026-03-15"),
        ]
    )
    with search.client() as client:
        read = [(trace[0]["traceId"], len(trace)) for trace in links.read_traces(client, DAY)]
    assert read == [("a", 3), ("c", 2), ("e", 1)]
    assert search.scrolled == 5 and search.closed == 1
    near = search.queries[0]["query"]["bool"]["filter"][0]["bool"]["should"][1]["range"]["timestamp_millis"]
    assert (near["gte"], near["lt"]) == ((MIDNIGHT_US - HOUR_US) // 1000, (MIDNIGHT_US + 25 * HOUR_US) // 1000)


def test_a_day_without_spans_is_said():
    with Search().client() as client, pytest.raises(CliError, match="no index zipkin-span-2026-03-14.*UTC"):
        list(links.read_traces(client, DAY))


def test_half_a_search_gives_no_links():
    search = Search([hit("a", MIDNIGHT_US)])
    search.failed_shards = 1
    with search.client() as client, pytest.raises(CliError, match="only a part"):
        list(links.read_traces(client, DAY))
    assert search.closed == 1


def test_what_is_written_replaces_what_was_there():
    search = Search()
    new, gone = Link("a", "b", 3, 1), Link("a", "c", 2, 0)
    search.existing = [links._document_id(link) for link in (new, gone)]
    with search.client() as client:
        assert links.write(client, DAY, [new]) == "zipkin-dependency-2026-03-14"
        where = {"_index": "zipkin-dependency-2026-03-14", "_id": links._document_id(new)}
        assert search.bulk == [
            {"delete": where | {"_id": links._document_id(gone)}},
            {"index": where},
            {"parent": "a", "child": "b", "callCount": 3, "errorCount": 1},
        ]
        search.bulk_error = "index is read-only"
        with pytest.raises(CliError, match="index is read-only.*replaces"):
            links.write(client, DAY, [new])


def test_a_server_that_refuses_or_breaks_off_is_named():
    def refuse(request):
        return httpx.Response(403, text="no permissions for [indices:data/read/search]")

    def break_off(request):
        raise httpx.ReadError("gone")

    for behave, says in ((refuse, "403.*no permissions"), (break_off, "ReadError")):
        with httpx.Client(base_url="http://search", transport=httpx.MockTransport(behave)) as client:
            with pytest.raises(CliError, match=says):
                links.write(client, DAY, [])


def span(number: int, service: str, parent: int | None = None, **more) -> dict:
    own = {
        "traceId": "ab" * 16,
        "id": f"{number:016x}",
        "name": "n",
        "timestamp": 1_000_000 + number,
        "localEndpoint": {"serviceName": service},
        **more,
    }
    return own | ({"parentId": f"{parent:016x}"} if parent else {})


@pytest.fixture
def linker():
    """Zipkin's own; skips where its jar, the compiler or a Java can't be had, but not where it doesn't compile."""
    try:
        zipkin_jar.obtain(print)
        maven.obtain(java_source.COMPILER, print)
        linker = Linker(print)
    except CliError as problem:
        pytest.skip(str(problem))
    with linker:
        yield linker


def test_zipkins_own_linker_finds_the_links(linker):
    for _ in range(3):
        linker.put(
            [
                span(1, "api", kind="SERVER"),
                span(2, "tts", 1, kind="SERVER", tags={"error": ""}),
                span(3, "tts", 2),
                span(4, "vocoder", 1, kind="SERVER"),
            ]
        )
    linker.put([span(1, "api", kind="SERVER"), span(2, "api", 1, kind="CLIENT", remoteEndpoint={"serviceName": "tts"})])
    assert linker.links() == [Link("api", "tts", 4, 3), Link("api", "vocoder", 3, 0)]


def test_what_the_linker_can_not_read_is_said(linker):
    linker.put([{"traceId": "no hexadecimal digits", "id": "1"}])
    with pytest.raises(CliError, match="linker ended with an error(.|\n)*hex"):
        linker.links()
