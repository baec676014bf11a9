"""Fits of stored voices, as the ingress sees them: it asks for fits, shows them, and keeps fitting-service at work."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from asyncio import to_thread
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.ingress.context import FitProgress, RequestContext
from deployments.safe_traceback import safe_traceback
from deployments.settings import Limits
from engines.contract import Arrays, Capabilities
from speech.errors import RETRY_AFTER_RESTART_S, Conflict, DeadlineExceeded, Overloaded, SpeechError
from tracing import vocabulary
from voices import VoiceRecord, Voices
from voices.fit_list import Fit
from voices.fits import Hold
from voices.record import PublicFit

log = logging.getLogger("ray.serve")

LOOK_S = 30.0  #: between two looks for fits that no request of this replica has asked for
RETRY_S = 2.0  #: after a call that failed: the replica died, or none runs yet
WAIT_S = 0.5  #: between two looks of a request that waits for a fit
MOST_CALLS = 4  #: to fitting-service at a time, by one ingress replica; Serve scales that service by its calls


class Fitting:
    """The fits of one ingress replica.

    Args:
        handle: of fitting-service; None where it does not run.
        store: the stored voices; None if none are stored here.
        engine: the graph's engine.
        limits: of requests that wait for a fit.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any] | None,
        store: Voices | None,
        engine: Capabilities,
        limits: Limits = Limits(),
    ) -> None:
        self._handle = handle
        self._store = store if engine.fits_voices else None
        self._engine = engine.name, engine.version
        self._limits = limits
        self._waiting = 0
        self._woken = asyncio.Event()
        self._calling: asyncio.Task[None] | None = None
        self._counts = dict.fromkeys(("asked", "calls", "calls_failed"), 0)

    @property
    def on(self) -> bool:
        """True if voices are fitted here."""
        return self._handle is not None and self._store is not None

    async def ask(self, record: VoiceRecord, trace_id: str, *, again: bool = False) -> tuple[VoiceRecord, PublicFit]:
        """Queue the fit of a stored voice.

        Args:
            record: the voice.
            trace_id: of the request that asks.
            again: make it again where it was made before.

        Returns:
            The voice as it is stored now, and its fit.

        Raises:
            Conflict: no voices are fitted here.
            SpeechError: the store's.
        """
        store = self.require()
        record = await to_thread(store.want_fit, record)
        fit = await to_thread(store.fits.ask, record, self._engine, trace_id, again=again)
        self._counts["asked"] += 1
        self._woken.set()
        return record, fit

    def require(self) -> Voices:
        """Return the store; raise Conflict if no voices are fitted here."""
        if self._store is None or self._handle is None:
            raise Conflict(
                "No voices are fitted here: the running engine can't, or the operator of this service has switched it "
                "off (`fitting.enabled`). Leave 'fit' out: the voice can be used as it is.",
                code="fits_off",
            )
        return self._store

    async def wait_for_voice(self, record: VoiceRecord, ctx: RequestContext) -> None:
        """Wait until the fit of a stored voice has ended, however; ask for one if there is none.

        Raises:
            Conflict: no voices are fitted here.
            Overloaded: too many requests wait already.
            DeadlineExceeded: it takes too long; the fit goes on.
            SpeechError: the store's.
        """
        store = self.require()
        with self._place(ctx):
            wanted, _ = await self.ask(record, ctx.trace_id)
            await self._until_ended(lambda: store.fits.of_voice(wanted, self._engine), ctx)

    async def fitted_clip(self, clip: bytes, steered: Arrays, ctx: RequestContext) -> Arrays | None:
        """Wait until a clip that came with a request is fitted.

        Args:
            clip: the file; it is not stored.
            steered: the arrays that the engine found in it.
            ctx: the request.

        Returns:
            The fitted voice; None where the steered one is kept.

        Raises:
            SpeechError: as `wait_for_voice`.
        """
        store = self.require()
        hold_s = self._limits.fit_deadline_s + self._limits.deadline_s
        with self._place(ctx):
            # A task of its own: if the client leaves meanwhile, the hold that it makes is let go all the same.
            asking = asyncio.get_running_loop().create_task(
                to_thread(store.fits.ask_for_clip, clip, steered, self._engine, ctx.trace_id, hold_s),
                context=contextvars.Context(),
            )
            try:
                hold = await asyncio.shield(asking)
                self._counts["asked"] += 1
                self._woken.set()
                fit = await self._until_ended(lambda: store.fits.held(hold), ctx)
                return await to_thread(store.fits.arrays, fit.result) if fit is not None and fit.result else None
            finally:
                asking.add_done_callback(partial(self._let_go_later, store))

    def _let_go_later(self, store: Voices, asking: asyncio.Task[Hold]) -> None:
        if not asking.cancelled() and asking.exception() is None:
            asyncio.get_running_loop().run_in_executor(None, self._let_go, store, asking.result())

    @staticmethod
    def _let_go(store: Voices, hold: Hold) -> None:
        try:
            store.fits.let_go(hold)
        except SpeechError as error:  # it ends by itself
            log.warning("a fit that no request waits for could not be let go: %s", safe_traceback(error))

    @contextmanager
    def _place(self, ctx: RequestContext) -> Iterator[None]:
        if self._waiting >= self._limits.max_fit_waiting:
            raise Overloaded(
                f"{self._waiting} requests wait for fits already. Leave 'fit' out, or try again later.",
                code="too_many_wait_for_fits",
                retry_after_s=RETRY_AFTER_RESTART_S,
            )
        self._waiting += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._waiting -= 1
            ctx.root.tag(vocabulary.FIT_WAIT_MS, round((time.monotonic() - began) * 1000, 1))

    async def _until_ended(self, look: Callable[[], Fit | None], ctx: RequestContext) -> Fit | None:
        """Wait for the end of a fit, and report its steps; None if it is gone."""
        seen, deadline = None, time.monotonic() + self._limits.fit_deadline_s
        while True:
            fit = await to_thread(look)
            if fit is None:
                return None
            progress = FitProgress(fit.state, fit.step, fit.steps)
            if progress != seen and ctx.on_progress is not None:
                ctx.on_progress(progress)
            seen = progress
            if not fit.open:
                return fit
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"The voice was not fitted within {self._limits.fit_deadline_s:g} s. Leave 'fit' out to speak with "
                    "the steered voice; a stored voice's fit goes on meanwhile.",
                    code="fit_not_ready",
                )
            await asyncio.sleep(WAIT_S)

    async def shown(self, records: Sequence[VoiceRecord]) -> dict[str, PublicFit]:
        """Return the fits of those voices that have one or wait for one, by the voice's id."""
        if self._store is None or not any(record.fit for record in records):
            return {}
        return await to_thread(self._store.fits.shown, records, self._engine)

    def start(self) -> None:
        """Keep fitting-service at work, on the running event loop, as long as there are fits to make.

        What was left in the store before this replica started is found too.
        """
        if self.on:
            # In a fresh context: Serve cancels what shares a cancelled request's.
            self._calling = asyncio.get_running_loop().create_task(self._forever(), context=contextvars.Context())

    async def _forever(self) -> None:
        assert self._store is not None
        while True:
            pause_s = LOOK_S
            try:
                await to_thread(self._store.fits.prune)
                if pending := await to_thread(self._store.fits.pending, self._engine):
                    await self._call(min(pending, MOST_CALLS))
            except Exception as error:  # requests must go on, whatever becomes of fits
                self._counts["calls_failed"] += 1
                pause_s = RETRY_S
                log.warning("fitting-service did not end its work: %s", safe_traceback(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause_s)
            self._woken.clear()

    async def _call(self, count: int) -> None:
        """Call fitting-service so many times at once; each call lasts until no fit is left."""
        assert self._handle is not None
        self._counts["calls"] += count
        results = await asyncio.gather(*(self._handle.work.remote() for _ in range(count)), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def counters(self) -> dict[str, int]:
        """Return how many fits were asked for here, and how the calls to fitting-service ended."""
        return {f"fits_{name}": count for name, count in self._counts.items()}
