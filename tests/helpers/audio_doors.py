"""Every door of the HTTP API and of the web page: those that give synthetic speech, and those that don't.

A new route belongs into one of these lists, or tests/unit/test_marking.py fails. A door that gives speech is asked in
every format by tests/served/test_marking_served.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

Door = tuple[str, str]  #: method and path

_INFERENCE = ("sft", "zero_shot", "cross_lingual", "instruct", "instruct2")
SPEECH: frozenset[Door] = frozenset(
    {
        *(("POST", path) for path in ("/api/generate", "/v1/audio/speech", "/v1/audio/speech/batch")),
        ("WS", "/v1/audio/speech/stream"),
    }
    | {(method, f"/inference_{name}") for name in _INFERENCE for method in ("GET", "POST")}
)
OTHER: frozenset[Door] = frozenset(
    {("GET", path) for path in ("/", "/health", "/ready", "/docs", "/docs/assets/{file}", "/redoc", "/openapi.json")}
    | {("GET", path) for path in ("/api/dialects", "/v1/models", "/v1/models/{model}")}
    | {("GET", "/v1/audio/voices"), ("POST", "/v1/audio/voices"), ("POST", "/v1/audio/verify")}
    | {(method, "/v1/audio/voices/{voice}") for method in ("GET", "PATCH", "DELETE")}
    | {("POST", "/v1/audio/voices/{voice}/fit")}
    | {("GET", "/v1/audio/speech/stream")}  # says that it is a WebSocket
)
PAGE_SPEECH: frozenset[Door] = frozenset({("GET", "/takes/{token}.{extension}")})
#: The pages themselves: Gradio's, which play what `/takes/` has, and PCM that a tab never keeps as a file.
PAGE_OTHER: frozenset[Door] = frozenset({("GET", "/"), ("MOUNT", "/zh"), ("MOUNT", "/en")})


def doors(routes: Iterable[BaseRoute]) -> set[Door]:
    """Return the doors of an application, HEAD left out."""
    found: set[Door] = set()
    for route in routes:
        if isinstance(route, Mount):
            found.add(("MOUNT", route.path))
        elif isinstance(route, WebSocketRoute):
            found.add(("WS", route.path))
        else:
            assert isinstance(route, Route), f"{type(route).__name__}: a kind of door that the lists do not know yet"
            found |= {(method, route.path) for method in route.methods or () if method != "HEAD"}
    return found
