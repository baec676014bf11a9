"""Makes fits of stored voices, step by step, in the thread that calls it. It knows nothing of Serve or of traces."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from deployments.stages.memory import give_back
from engines.contract import Arrays, Engine, FitOutcome, FittingEngine, Reference, Voice, VoiceFit, VoiceFitter
from speech import audio
from speech.errors import SpeechError
from voices import VoiceRecord, Voices
from voices.fits import FitLost, Work

log = logging.getLogger("ray.serve")

#: Between two writes of a fit's state. A service that takes a fit up makes what came since then again.
KEEP_EVERY_S = 5.0


@dataclass(frozen=True)
class Made:
    """A fit that has come to its end; `taken_up_at` is the step that this service began at."""

    outcome: FitOutcome
    taken_up_at: int


class FitWorker:
    """Fits voices with one engine. The fitter is loaded with the first fit, so that a service without work is small.

    Args:
        engine: its capabilities say `fits_voices`.
        store: the stored voices.
        device: torch device.
        threads: torch threads of this process.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        engine: Engine,
        store: Voices,
        device: str = "cpu",
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = cast(FittingEngine, engine)
        self._store = store
        self._device = device
        self._threads = threads
        self._clock = clock
        self._fitter: VoiceFitter | None = None
        self._since: float | None = None

    def running_s(self) -> float:
        """Return the seconds for which the present step has been computing; 0 when idle. Any thread may ask."""
        since = self._since
        return 0.0 if since is None else self._clock() - since

    def make(self, work: Work, is_lost: Callable[[], bool] = lambda: False) -> Made:
        """Make a fit, or take it up where its state was kept last; keep its state now and then.

        Args:
            work: the fit, with a claim on it that the caller renews.
            is_lost: tells that the claim is over.

        Raises:
            FitLost: the claim is over.
            SpeechError: the voice can't be found in its clip, or the store failed.
            Exception: the engine failed.
        """
        try:
            self._since = self._clock()
            fit = self._begin(work)
            taken_up_at, kept_at = fit.step, self._clock()
            while fit.outcome is None:
                if is_lost():
                    raise FitLost
                self._since = self._clock()
                fit.advance()
                is_due = fit.outcome is None and self._clock() - kept_at >= KEEP_EVERY_S
                self._store.fits.keep(work, fit.step, fit.steps, fit.state() if is_due else None)
                if is_due:
                    kept_at = self._clock()
            return Made(fit.outcome, taken_up_at)
        finally:
            self._since = None

    def _begin(self, work: Work) -> VoiceFit:
        voice = self._voice(work)
        if self._fitter is None:
            self._fitter = self._engine.load_voice_fitter(self._device, self._threads)
            give_back()
        state = self._store.fits.state(work)
        clip = None if work.record is None else partial(self._reference, work.record)
        try:
            return self._fitter.begin(voice, state, clip)
        except ValueError:
            if state is None:
                raise
            log.warning("the kept state of a fit is of another version of the engine; it is begun anew")
            return self._fitter.begin(voice, None, clip)

    def _voice(self, work: Work) -> Voice:
        if (record := work.record) is None:
            arrays = self._store.fits.start(work)
            if arrays is None:  # the voice was deleted
                raise FitLost
            return Voice(arrays)
        arrays = self._store.arrays(record.id, work.engine)
        return Voice(self._extracted(record, work.engine) if arrays is None else arrays)

    def _extracted(self, record: VoiceRecord, engine: tuple[str, str]) -> Arrays:
        """Find the voice in its clip, as embedding-service would, and store it for requests too."""
        reference = self._reference(record)
        [found] = self._engine.load_speaker_encoder(self._device, self._threads).encode([reference])
        if isinstance(found, SpeechError):
            raise found
        self._store.keep_arrays(record.id, engine, found.arrays)
        return found.arrays

    def _reference(self, record: VoiceRecord) -> Reference:
        clip = audio.decode(self._store.clip(record.id), seconds=self._engine.capabilities.reference_seconds)
        return self._engine.prepare(clip.samples, clip.rate, record.transcript)
