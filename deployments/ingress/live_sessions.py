"""The open WebSocket sessions of one ingress replica: how many there are, what ended them, and how all of them end."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from deployments.ingress.metrics import SESSION_ENDS
from deployments.settings import SessionLimits
from speech.errors import RETRY_AFTER_PLACE_S, RETRY_AFTER_RESTART_S, Overloaded, RateLimited, SpeechError

_LOOKED_EVERY_S = 1.0


class Session(Protocol):
    """An open session."""

    @property
    def speaking(self) -> bool:
        """An utterance of it is not finished."""
        ...

    def drain(self) -> None:
        """Finish what is being said, and close."""
        ...


class Sessions:
    """The sessions of one replica. Use it on one event loop.

    Args:
        limits: how many there may be.

    Attributes:
        draining: no session is taken any more.
    """

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._open: dict[Session, str] = {}
        self._ended: Counter[str] = Counter()
        self._refused = 0
        self._watching: asyncio.Task[None] | None = None
        self.draining = False

    def start(self, stopping: Callable[[], bool]) -> None:
        """Close the sessions when Serve stops this replica. It waits for them, and says nothing to a request.

        Args:
            stopping: tells whether it does.
        """

        async def watch() -> None:
            while not stopping():
                await asyncio.sleep(_LOOKED_EVERY_S)
            self.drain()

        # In a fresh context: Serve cancels what shares a cancelled request's.
        self._watching = asyncio.get_running_loop().create_task(watch(), context=contextvars.Context())

    @contextmanager
    def entered(self, session: Session, caller: str) -> Iterator[None]:
        """Hold a session's place.

        Args:
            session: the session.
            caller: an opaque name of its caller.

        Raises:
            Overloaded: the replica drains, or has all the sessions that it may have.
            RateLimited: the caller has.
        """
        try:
            self._check(caller)
        except Exception:
            self._refused += 1
            raise
        self._open[session] = caller
        try:
            yield
        finally:
            del self._open[session]

    def _check(self, caller: str) -> None:
        limits = self._limits
        if self.draining:
            raise Overloaded(
                "The service is stopping and takes no new sessions; connect again in a moment.",
                code="draining",
                retry_after_s=RETRY_AFTER_RESTART_S,
            )
        if len(self._open) >= limits.max_open:
            raise Overloaded(
                f"The service is at its limit of {limits.max_open} open sessions; try again in a moment.",
                code="too_many_sessions",
                retry_after_s=RETRY_AFTER_RESTART_S,
            )
        if sum(name == caller for name in self._open.values()) >= limits.max_open_per_caller:
            raise RateLimited(
                f"This caller's limit of {limits.max_open_per_caller} open sessions is reached; close one of them.",
                code="too_many_sessions",
                retry_after_s=RETRY_AFTER_PLACE_S,
            )

    def refusal(self, error: SpeechError) -> str:
        """Return which of `metrics.SESSION_ENDS` a session has that `entered` refused with an error.

        `full` makes an alert. A limit of 0 is no such thing: the operator wants no sessions.
        """
        full = isinstance(error, Overloaded) and not self.draining and self._limits.max_open > 0
        return "full" if full else "refused"

    def ended(self, reason: str) -> None:
        """Count a session that has ended, by one of `metrics.SESSION_ENDS`."""
        assert reason in SESSION_ENDS
        self._ended[reason] += 1

    @property
    def speaking(self) -> int:
        """The number of sessions in which an utterance is not finished."""
        return sum(session.speaking for session in self._open)

    def drain(self) -> None:
        """Take no new sessions; the open ones finish what they are saying, and close."""
        self.draining = True
        for session in list(self._open):
            session.drain()

    def counters(self) -> dict[str, int]:
        """Return how many sessions are open, were refused, and have ended, by what ended them."""
        return {
            "sessions_open": len(self._open),
            "sessions_refused": self._refused,
            **{f"sessions_ended_{reason}": self._ended[reason] for reason in SESSION_ENDS},
        }
