"""Answer in Zipkin's place for keys that may see services and durations, but no tags.

It fails closed. A path that is not listed here is not answered. Of a span only the fields that are listed here are
copied: tags, annotations, addresses and whatever a later Zipkin adds stay behind. A search by a tag is refused, because
its results would tell the tag's value.
"""

from __future__ import annotations

from collections.abc import Callable

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_SCALARS = ("traceId", "parentId", "id", "kind", "name", "timestamp", "duration", "shared", "debug")
_ENDPOINTS = ("localEndpoint", "remoteEndpoint")
_LINK = ("parent", "child", "callCount")  # errorCount is made from a tag
_SEARCH = (
    "serviceName",
    "spanName",
    "remoteServiceName",
    "minDuration",
    "maxDuration",
    "endTs",
    "lookback",
    "limit",
    "traceIds",
)


def span(full: dict) -> dict:
    """Copy what may be seen of one span of Zipkin's v2 JSON.

    Raises:
        TypeError, AttributeError: This is no span.
    """
    kept: dict[str, object] = {name: _scalar(full[name]) for name in _SCALARS if name in full}
    for name in _ENDPOINTS:
        if full.get(name, {}).get("serviceName") is not None:
            kept[name] = {"serviceName": _scalar(full[name]["serviceName"])}
    return kept


def trace(full: list) -> list[dict]:
    return [span(one) for one in full]


def traces(full: list) -> list[list[dict]]:
    return [trace(one) for one in full]


def links(full: list) -> list[dict]:
    return [{name: _scalar(link[name]) for name in _LINK if name in link} for link in full]


def names(full: list) -> list[str]:
    return [str(_scalar(name)) for name in full]


class Redacted:
    """The routes that answer without tags. They ask `zipkin`, whose base URL is the server's."""

    def __init__(self, zipkin: httpx.AsyncClient) -> None:
        self._zipkin = zipkin

    @property
    def routes(self) -> list[Route]:
        calls = {
            "services": names,
            "spans": names,
            "remoteServices": names,
            "traces": traces,
            "traceMany": traces,
            "dependencies": links,
            "trace/{id}": trace,
        }
        # Tags that can be searched by, and their values: none.
        return [
            *(Route(f"/api/v2/{path}", self._answer(redact)) for path, redact in calls.items()),
            *(Route(f"/api/v2/{path}", _none) for path in ("autocompleteKeys", "autocompleteValues")),
        ]

    def _answer(self, redact: Callable[[list], object]) -> Callable:
        async def answer(request: Request) -> Response:
            if request.query_params.get("annotationQuery"):
                return _error(
                    403,
                    "This key sees services and durations alone, and so can't search by tags: leave "
                    "annotationQuery out, or ask for a key with the role view-traces.",
                )
            search = {name: request.query_params[name] for name in _SEARCH if name in request.query_params}
            try:
                found = await self._zipkin.get(request.url.path, params=search)
                if found.status_code in (400, 404):  # in our own words: Zipkin's quote what was asked
                    return _error(
                        found.status_code,
                        "Zipkin found nothing under that."
                        if found.status_code == 404
                        else "Zipkin doesn't understand this search.",
                    )
                found.raise_for_status()
                return JSONResponse(redact(found.json()))
            except (httpx.HTTPError, ValueError, TypeError, AttributeError):
                return _error(502, "Zipkin gives no answer that can be shown; try again in a moment.")

        return answer


async def _none(request: Request) -> Response:
    return JSONResponse([])


def _scalar(value: object) -> str | int | bool:
    if not isinstance(value, str | int):
        raise TypeError("a scalar was expected")
    return value


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status)
