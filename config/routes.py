"""Every route of the HTTP API, once: path, methods, roles, and how it is traced.

Readers of this table: the access check (`access.authorization`), the allow-list of span names
(`tracing.vocabulary`), the ingress (which requests are traced, which bodies its proxy prefetches) and the doctor
(which requests ask for speech). A test compares it with the routes that the application has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

READ = frozenset({"GET"})
WRITE = frozenset({"POST"})


@dataclass(frozen=True)
class Route:
    """One path with the methods that share its rules.

    Attributes:
        path: `{name}` stands for a part that may be anything but `/`.
        methods: HEAD goes with GET and is not named here.
        roles: the caller's key needs one of them. Empty: the route is open, and takes no key and no limit.
        traced: False for routes that are polled or only read: their traces are kept only if the request fails.
        speech: the request asks for speech.
        prefetched: the proxy sends the body along with the headers (`deployments/ingress/body_prefetch.py`).
    """

    path: str
    methods: frozenset[str]
    roles: frozenset[str] = frozenset()
    traced: bool = True
    speech: bool = False
    prefetched: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """A regular expression that matches this path, and no other, as a whole."""
        return re.compile(path_pattern(self.path))

    def takes(self, method: str) -> bool:
        """Tell whether the route has `method`."""
        return ("GET" if method == "HEAD" else method) in self.methods


def path_pattern(path: str) -> str:
    """The regular expression of a path with `{name}` parts."""
    return re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))


def _open(path: str) -> Route:
    return Route(path, READ, traced=False)


def _speech(path: str, methods: frozenset[str] = WRITE, prefetched: bool = False) -> Route:
    return Route(path, methods, frozenset({"synthesize"}), speech=True, prefetched=prefetched)


_SYNTHESIZE = frozenset({"synthesize"})
_VOICES = frozenset({"voices"})

LIVE = "/v1/audio/speech/stream"  #: the WebSocket that takes text while it is written (docs/live.md)

ROUTES: tuple[Route, ...] = (
    _open("/"),
    _open("/health"),
    _open("/ready"),
    _open("/docs"),
    _open("/docs/assets/{file}"),
    _open("/redoc"),
    _open("/openapi.json"),
    _open("/api/dialects"),
    _speech("/api/generate", prefetched=True),
    _speech("/v1/audio/speech"),
    _speech(LIVE, READ),  # a WebSocket, whose handshake is a GET
    _speech("/v1/audio/speech/batch"),
    Route("/v1/models", READ, _SYNTHESIZE),
    Route("/v1/models/{model}", READ, _SYNTHESIZE),
    Route("/v1/audio/voices", READ, _VOICES | _SYNTHESIZE),
    Route("/v1/audio/voices", WRITE, _VOICES),
    Route("/v1/audio/voices/{voice}", READ, _VOICES | _SYNTHESIZE),
    Route("/v1/audio/voices/{voice}", frozenset({"PATCH", "DELETE"}), _VOICES),
    Route("/v1/audio/voices/{voice}/fit", WRITE, _VOICES),
    Route("/v1/audio/verify", WRITE, _VOICES | _SYNTHESIZE),
    # CosyVoice's own paths. Its client sends its form with GET.
    _speech("/inference_sft", READ | WRITE),
    _speech("/inference_zero_shot", READ | WRITE),
    _speech("/inference_cross_lingual", READ | WRITE),
    _speech("/inference_instruct", READ | WRITE),
    _speech("/inference_instruct2", READ | WRITE),
)

PATHS: frozenset[str] = frozenset(route.path for route in ROUTES)
OPEN: frozenset[str] = frozenset(route.path for route in ROUTES if not route.roles)
UNTRACED: frozenset[str] = frozenset(route.path for route in ROUTES if not route.traced)
SPEECH: frozenset[str] = frozenset(route.path for route in ROUTES if route.speech)
PREFETCHED: tuple[str, ...] = tuple(route.path for route in ROUTES if route.prefetched)


def at(path: str) -> tuple[Route, ...]:
    """The routes of a request's path, one for each set of methods; empty where there is none."""
    return tuple(route for route in ROUTES if route.pattern.fullmatch(path))
