"""Backends: each is one engine's way through the graph, with all that an ingress replica has for it.

A graph has one backend, `primary`, and a second one if a fallback engine is configured. The watchdog switches between
them. A switch holds for some seconds only, so that an ingress that hears no more of it returns to the primary by
itself. A request stays on the backend that it began on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deployments.ingress.following import Follower
from deployments.ingress.speech_graph import SpeechGraph
from deployments.ingress.synthesis import Synthesizer
from deployments.ingress.voice_resolver import VoiceResolver
from engines.contract import Engine
from tracing.vocabulary import FALLBACK, PRIMARY

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Backend:
    """One engine as the ingress uses it. `engine` gives capabilities and checks alone; the stages have the models."""

    name: str
    engine: Engine
    graph: SpeechGraph
    voices: VoiceResolver
    synthesizer: Synthesizer
    follower: Follower


class Failover:
    """Says which backend new requests use, in one ingress replica.

    Args:
        primary: the graph's own engine.
        fallback: the other engine; None if none is configured.
        clock: seconds, for tests.
    """

    def __init__(
        self, primary: Backend, fallback: Backend | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.primary = primary
        self.fallback = fallback
        self._clock = clock
        self._fallback_until = float("-inf")

    @property
    def current(self) -> Backend:
        """The backend that new requests use."""
        if self.fallback is not None and self._clock() < self._fallback_until:
            return self.fallback
        return self.primary

    def switch(self, name: str, for_s: float) -> str:
        """Use a backend for the next `for_s` seconds; called again, it holds for longer.

        Returns:
            The name of the backend that is now in use.

        Raises:
            ValueError: there is no backend of that name.
        """
        if name not in (PRIMARY, FALLBACK):
            raise ValueError(f"there is no backend {name!r}; backends are {PRIMARY} and {FALLBACK}")
        if name == FALLBACK and self.fallback is None:
            raise ValueError("no fallback engine is configured: set `fallback` in the graph's config")
        before = self.current.name
        self._fallback_until = self._clock() + for_s if name == FALLBACK else float("-inf")
        if before != name:
            log.warning("new requests go to the %s backend (%s)", name, self.current.engine.capabilities.name)
        return self.current.name

    def __iter__(self) -> Iterator[Backend]:
        return iter((self.primary,) if self.fallback is None else (self.primary, self.fallback))
