"""Deletes old days of Zipkin's on Elasticsearch or OpenSearch, which keep everything by themselves.

Zipkin makes one index a day for spans, one for what its search page completes, and `cluster.links` one for links. A day
is deleted whole: that frees its disk at once, which deleting single spans would not.

The days are those in the indices' names, not their ages: an index is made when a day's first span comes, and spans may
come late, from a spool.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

import httpx

from cluster.cli_error import CliError
from cluster.storage_elasticsearch import Server

KINDS = ("span", "autocomplete", "dependency")
LONGEST_PATH = 2000  #: of a call; servers refuse a first line above 4,096 bytes


@dataclass(frozen=True)
class Deleted:
    """The outcome of one run, or of a dry one.

    Attributes:
        indices: their names, the oldest first.
        bytes: what they took on disk, copies included.
    """

    indices: tuple[str, ...]
    bytes: int


def delete_old(server: Server, keep_days: int, today: date, prefix: str = "zipkin", dry_run: bool = False) -> Deleted:
    """Delete the indices of all days but the last `keep_days`.

    Args:
        server: The storage.
        keep_days: Whole days of UTC that stay, beside today.
        today: The day of UTC.
        prefix: Zipkin's ES_INDEX.
        dry_run: True: delete nothing.

    Raises:
        CliError: The storage does not answer, or refuses.
    """
    named = re.compile(rf"{re.escape(prefix)}-(?:{'|'.join(KINDS)})-(\d{{4}}-\d\d-\d\d)")
    first_kept = today - timedelta(days=keep_days)
    with server.client() as client:
        rows = _call(
            client, "GET", f"/_cat/indices/{prefix}-*", {"format": "json", "bytes": "b", "h": "index,store.size"}
        )
        old = sorted(
            (match[1], row["index"], int(row["store.size"] or 0))
            for row in rows
            if (match := named.fullmatch(row["index"])) and _day(match[1], first_kept) < first_kept
        )
        names = [name for _, name, _ in old]
        if not dry_run:
            for some in _paths(names):
                _call(client, "DELETE", some, {"ignore_unavailable": "true"})
    return Deleted(tuple(names), sum(size for *_, size in old))


def _day(text: str, otherwise: date) -> date:
    """Read a day; an index whose name only looks like one is no day of Zipkin's."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return otherwise


def _paths(names: list[str]) -> list[str]:
    """Join names to paths, as many as fit into a call."""
    paths: list[str] = []
    for name in names:
        if paths and len(paths[-1]) + len(name) < LONGEST_PATH:
            paths[-1] += f",{name}"
        else:
            paths.append(f"/{name}")
    return paths


def _call(client: httpx.Client, method: str, path: str, params: dict[str, str]) -> list[dict]:
    try:
        answer = client.request(method, path, params=params)
    except httpx.HTTPError as failure:
        raise CliError(
            f"{client.base_url} broke off ({type(failure).__name__}). Run it again: what is deleted already stays so."
        ) from failure
    if answer.is_error:
        raise CliError(f"{client.base_url} answers {answer.status_code} to {method} {path}: {answer.text[:300]}")
    return answer.json()
