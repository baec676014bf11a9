"""A day's dependency graph for Zipkin on Elasticsearch or OpenSearch, which computes none by itself.

    python -m cluster links --day 2026-11-22 --storage-url http://127.0.0.1:9200

Reads every span of the day by scroll, puts whole traces into Zipkin's own linker (`cluster.linker`), and writes the
links where Zipkin reads them: one document a link in the index `zipkin-dependency-<day>`. Run again, it replaces what
it wrote. A day is a day of UTC, as in the names of Zipkin's indices; a trace belongs to the day on which its first
span began, as with memory storage, so the hour before and the hour after are read along.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby

import httpx

from cluster.cli_error import CliError
from cluster.linker import Link, Linker
from cluster.storage_elasticsearch import Server

#: spans of one sorted scroll: every page of it looks through all of them again, so large days are cut into pieces
PIECE_SPANS = 200_000
PAGE_SPANS = 5_000
#: how much of the days before and after is read, for traces that cross midnight
OVERLAP = timedelta(hours=1)
_HEX = "0123456789abcdef"
_BY_TRACE = {"traceId": {"order": "asc", "unmapped_type": "keyword"}}


@dataclass(frozen=True)
class Result:
    """The figures of one run."""

    day: date
    spans: int
    traces: int
    links: list[Link]
    index: str


def parse_day(text: str, today: date | None = None) -> date:
    """`2026-11-22`, `today` or `yesterday` (UTC). ValueError where it is none of them."""
    today = today or datetime.now(UTC).date()
    if text in ("today", "yesterday"):
        return today - timedelta(days=text == "yesterday")
    return date.fromisoformat(text)


def compute(
    server: Server,
    day: date,
    say: Callable[[str], None],
    prefix: str = "zipkin",
    linker: Callable[[Callable[[str], None]], Linker] = Linker,
) -> Result:
    """Compute the links of a day and write them.

    Args:
        server: The storage.
        day: A day of UTC.
        say: Hears of progress.
        prefix: Zipkin's ES_INDEX.
        linker: Makes the linker.

    Raises:
        CliError: The storage has no spans of that day, or refuses.
    """
    with server.client() as client, linker(say) as linking:
        spans = traces = 0
        for trace in read_traces(client, day, prefix):
            linking.put(trace)
            spans, traces = spans + len(trace), traces + 1
            if traces % 100_000 == 0:
                say(f"  {traces} traces read")
        links = linking.links()
        index = write(client, day, links, prefix)
    return Result(day, spans, traces, links, index)


def read_traces(client: httpx.Client, day: date, prefix: str = "zipkin") -> Iterator[list[dict]]:
    """Yield the whole traces that began on `day`, in the order of their ids.

    Raises:
        CliError: There is no index of that day.
    """
    index = f"{prefix}-span-{day}"
    if _request(client, "HEAD", f"/{index}").status_code == 404:
        raise CliError(
            f"{client.base_url} has no spans of {day}: there is no index {index}. Days are of UTC; another "
            "one is named with --day, another prefix of indices (Zipkin's ES_INDEX) with --index."
        )
    _call(client, "POST", f"/{index}/_refresh")  # what was stored in the last second would be missing
    spans_a_day = _call(client, "GET", f"/{index}/_count")["count"]
    begin = datetime.combine(day, datetime.min.time(), UTC)
    end = begin + timedelta(days=1)
    near = {"range": {"timestamp_millis": {"gte": _milliseconds(begin - OVERLAP), "lt": _milliseconds(end + OVERLAP)}}}
    of_the_day = {"bool": {"should": [{"term": {"_index": index}}, near], "minimum_should_match": 1}}
    indices = ",".join(f"{prefix}-span-{day + timedelta(days=days)}" for days in (-1, 0, 1))
    first, last = _microseconds(begin), _microseconds(end)
    for piece in pieces(spans_a_day):
        query = {"bool": {"filter": [of_the_day, {"prefix": {"traceId": piece}}] if piece else [of_the_day]}}
        spans = _scroll(
            client,
            indices,
            {
                "size": PAGE_SPANS,
                "query": query,
                "sort": [_BY_TRACE],
                "_source": {"excludes": ["_q", "timestamp_millis"]},
            },
        )
        for _, group in groupby(spans, key=lambda hit: hit["_source"]["traceId"]):
            hits = list(group)
            times = [hit["_source"]["timestamp"] for hit in hits if hit["_source"].get("timestamp")]
            if first <= min(times) < last if times else any(hit["_index"] == index for hit in hits):
                yield [hit["_source"] for hit in hits]


def pieces(spans: int) -> list[str]:
    """Beginnings of trace ids that cut a day of so many spans into pieces of about PIECE_SPANS at most.

    >>> pieces(1000), len(pieces(3_000_000))
    ([''], 16)
    """
    found = [""]
    while spans > PIECE_SPANS * len(found):
        found = [beginning + digit for beginning in found for digit in _HEX]
    return found


def write(client: httpx.Client, day: date, links: list[Link], prefix: str = "zipkin") -> str:
    """Make `links` the links of `day`; returns the index they are in. Documents of earlier runs go."""
    index = f"{prefix}-dependency-{day}"
    named = {_document_id(link): link for link in links}
    earlier = {hit["_id"] for hit in _scroll(client, index, {"size": PAGE_SPANS, "_source": False})}
    lines: list[dict] = [{"delete": {"_index": index, "_id": identity}} for identity in sorted(earlier - named.keys())]
    for identity, link in named.items():
        lines += [{"index": {"_index": index, "_id": identity}}, link.document()]
    if not lines:
        return index
    body = "".join(json.dumps(line) + "\n" for line in lines)
    answer = _call(
        client,
        "POST",
        "/_bulk",
        params={"refresh": "true"},
        content=body,
        headers={"Content-Type": "application/x-ndjson"},
    )
    errors = [item["error"] for entry in answer["items"] for item in entry.values() if "error" in item]
    if errors:
        raise CliError(
            f"{client.base_url} refuses to write to {index}: {errors[0].get('reason')}. Correct that, and "
            "run it again: it replaces what it wrote."
        )
    return index


def _document_id(link: Link) -> str:
    """The same for the same link in every run. A hash: ids have at most 512 bytes, two service names may have more."""
    return hashlib.sha256(json.dumps([link.parent, link.child]).encode()).hexdigest()


def _scroll(client: httpx.Client, indices: str, search: dict) -> Iterator[dict]:
    answer = _call(
        client, "POST", f"/{indices}/_search", json=search, params={"scroll": "5m", "ignore_unavailable": "true"}
    )
    try:
        while answer["hits"]["hits"]:
            if answer["_shards"]["failed"]:
                raise CliError(
                    f"{client.base_url} could read only a part of {indices}: the links would be wrong, and "
                    "none were written. Its log says which shards failed."
                )
            yield from answer["hits"]["hits"]
            answer = _call(client, "POST", "/_search/scroll", json={"scroll": "5m", "scroll_id": answer["_scroll_id"]})
    finally:
        if "_scroll_id" in answer:
            with suppress(httpx.HTTPError):  # it ends by itself too; what went wrong before is what people must know
                client.request("DELETE", "/_search/scroll", json={"scroll_id": answer["_scroll_id"]})


def _request(client: httpx.Client, method: str, path: str, **more) -> httpx.Response:
    try:
        return client.request(method, path, **more)
    except httpx.HTTPError as failure:
        raise CliError(
            f"{client.base_url} broke off ({type(failure).__name__}); no links were written. Run it again: it replaces "
            "what it wrote."
        ) from failure


def _call(client: httpx.Client, method: str, path: str, **more) -> dict:
    answer = _request(client, method, path, **more)
    if answer.is_error:
        raise CliError(f"{client.base_url} answers {answer.status_code} to {method} {path}: {answer.text[:300]}")
    return answer.json()


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
