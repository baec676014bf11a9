"""Fits of stored voices, as the ingress sees them: it asks for fits, shows them, and keeps fitting-service at work."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from asyncio import to_thread
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.safe_traceback import safe_traceback
from engines.contract import Capabilities
from speech.errors import Conflict
from voices import VoiceRecord, Voices
from voices.record import PublicFit

log = logging.getLogger("ray.serve")

LOOK_S = 30.0  #: between two looks for fits that no request of this replica has asked for
RETRY_S = 2.0  #: after a call that failed: the replica died, or none runs yet
MOST_CALLS = 4  #: to fitting-service at a time, by one ingress replica; Serve scales that service by its calls


class Fitting:
    """The fits of one ingress replica.

    Args:
        handle: of fitting-service; None where it does not run.
        store: the stored voices; None if none are stored here.
        engine: the graph's engine.
    """

    def __init__(self, handle: DeploymentHandle[Any] | None, store: Voices | None, engine: Capabilities) -> None:
        self._handle = handle
        self._store = store if engine.fits_voices else None
        self._engine = engine.name, engine.version
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
        if self._store is None or self._handle is None:
            raise Conflict(
                "No voices are fitted here: the running engine can't, or the operator of this service has switched it "
                "off (`fitting.enabled`). The voice can be used as it is.",
                code="fits_off",
            )
        record = await to_thread(self._store.want_fit, record)
        fit = await to_thread(self._store.fits.ask, record, self._engine, trace_id, again=again)
        self._counts["asked"] += 1
        self._woken.set()
        return record, fit

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
