"""A line: one engine's way through the graph, with all that an ingress replica has for it; and which line is in use.

A graph has one line, `primary`, and a second one where a fallback engine is configured. The watchdog steers: what it
asks for holds for some seconds only, so that an ingress that no longer hears of it goes back to the primary by itself.
A request stays on the line that it began on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from deployments.ingress.context import RequestContext
from deployments.ingress.stage_clients import Made
from deployments.ingress.stored_voices import StoredVoices
from deployments.ingress.synthesis import Pipeline, Synthesizer
from deployments.ingress.voice_cache import VoiceCache
from engines.contract import Engine

log = logging.getLogger("ray.serve")

PRIMARY, FALLBACK = "primary", "fallback"


@dataclass(frozen=True)
class Backend:
    """`engine` is asked for capabilities and checks alone; the models are the stages'."""

    name: str
    engine: Engine
    pipeline: Pipeline
    voices: VoiceCache
    stored: StoredVoices
    speaking: Synthesizer


@dataclass(frozen=True)
class Source:
    """Where a request's voice is found, and on which line it goes."""

    line: Backend
    find: Callable[[RequestContext], Awaitable[Made]]


class Failover:
    """One ingress replica's. `fallback` is None where none is configured."""

    def __init__(
        self, primary: Backend, fallback: Backend | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.primary = primary
        self.fallback = fallback
        self._clock = clock
        self._fallback_until = float("-inf")

    @property
    def current(self) -> Backend:
        return self.fallback if self._clock() < self._fallback_until else self.primary

    def steer(self, line: str, for_s: float) -> str:
        """Use `line` for the next `for_s` seconds; returns the one now in use. Asked again, it holds for longer.

        Raises ValueError for a line that there is not.
        """
        if line not in (PRIMARY, FALLBACK):
            raise ValueError(f"there is no line {line!r}; lines are {PRIMARY} and {FALLBACK}")
        if line == FALLBACK and self.fallback is None:
            raise ValueError("no fallback engine is configured: set `fallback` in the graph's config")
        before = self.current.name
        self._fallback_until = self._clock() + for_s if line == FALLBACK else float("-inf")
        if before != line:
            log.warning("new requests go to the %s line (%s)", line, self.current.engine.capabilities.name)
        return self.current.name

    def __iter__(self):
        return iter((self.primary,) if self.fallback is None else (self.primary, self.fallback))
