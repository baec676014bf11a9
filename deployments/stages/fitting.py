"""fitting-service: FIT_VOICE. Fits stored voices to their speakers in the background, at the lowest CPU priority.

The queue is in the store of voices (`voices/fits.py`), so it survives the end of every process. The ingress calls
`work`, which lasts until nothing is left to do: Serve scales this service by its calls, down to none.
No request waits for this service. Its errors are traced and counted, and the voice says why it was not fitted.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import secrets
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from deployments import serve_log
from deployments.safe_traceback import safe_traceback
from deployments.settings import FittingConfig
from deployments.stages.base import Stage
from deployments.stages.fit_reporter import INTERRUPTED, FitReporter
from deployments.stages.fit_worker import FitWorker
from engines import contract
from speech.errors import SpeechError, VoiceNotFound, VoiceStoreUnavailable, internal_error
from tracing import vocabulary
from voices import Voices
from voices.fits import CLAIM_S, FitLost, Work

log = logging.getLogger("ray.serve")

#: Serve's options of the deployment. The ingress has as many calls open as there are fits to make, up to its limit.
#: A replica that is stopped in the middle of a fit is not waited for: another one takes the fit up.
FITTING_OPTIONS: dict[str, Any] = {
    "autoscaling_config": {
        "min_replicas": 0,
        "max_replicas": 1,
        "target_ongoing_requests": 1,
        "downscale_delay_s": 60,
    },
    "ray_actor_options": {"num_cpus": 0.1},
    "graceful_shutdown_timeout_s": 2,
}
LOOK_S = 2.0  #: between two looks while another service has the last fits
MOST_FAILURES = 5  #: of the store in a row; then `work` returns, and the ingress calls again later
WHY_FAILED = "an error in fitting-service; its log and its trace say more"


class FittingService(Stage):
    """One replica. It makes one fit at a time; several replicas share the queue."""

    name = vocabulary.FIT_VOICE
    service = vocabulary.FITTING

    def __init__(self, config: FittingConfig) -> None:
        serve_log.attach()
        super().__init__(config)
        store = Voices.open(config.voices)
        if store is None:
            raise ValueError("fitting-service needs a store of voices: set `voices.url`")
        if isinstance(self.engine, contract.TunedEngine):
            os.environ.update(self.engine.process_settings.get(self.name, {}))
        self._fits = store.fits
        self._engine = self.engine.capabilities.name, self.engine.capabilities.version
        self._token = secrets.token_hex(8)
        self._thread = ThreadPoolExecutor(1, "fit", partial(_be_nice, config.nice))
        self._worker = FitWorker(self.engine, store, self.device, config.threads)
        self._reporter = FitReporter(config.tracing, self.tracer, self.engine.capabilities, self.device)
        self._working: asyncio.Task[int] | None = None
        self.health = self.watch(self._thread, None)

    def running_s(self) -> float:
        """Return the seconds for which the present step has been computing; 0 when idle."""
        return self._worker.running_s()

    async def work(self) -> int:
        """Make fits until none is left, here or in another replica; return how many were made here.

        Calls share the work. A call that is cancelled does not end it.
        """
        if self._working is None or self._working.done():
            # In a fresh context: Serve cancels what shares a cancelled call's.
            self._working = asyncio.get_running_loop().create_task(self._work(), context=contextvars.Context())
        return await asyncio.shield(self._working)

    async def _work(self) -> int:
        made = failures = 0
        while failures < MOST_FAILURES:
            try:
                pending = await asyncio.to_thread(self._fits.pending, self._engine)
                self._reporter.pending(pending)
                if not pending:
                    break
                if work := await asyncio.to_thread(self._fits.take, self._engine, self._token):
                    await self._make(work)
                    made += 1
                else:  # its claim may end without an outcome
                    await asyncio.sleep(LOOK_S)
                failures = 0
            except SpeechError as error:
                failures += 1
                log.warning("fitting-service can't use the store of voices: %s", safe_traceback(error))
                await asyncio.sleep(LOOK_S * failures)
        return made

    async def _make(self, work: Work) -> None:
        span, lost = self._reporter.begin(work), threading.Event()
        renewing = asyncio.get_running_loop().create_task(self._renew(work, lost))
        try:
            made = await asyncio.get_running_loop().run_in_executor(self._thread, self._worker.make, work, lost.is_set)
            await asyncio.to_thread(self._fits.finish, work, made.outcome)
            self._reporter.made(span, made)
        except (FitLost, VoiceNotFound):
            await asyncio.to_thread(self._fits.discard, work)
            self._reporter.lost(span)
        except VoiceStoreUnavailable as error:  # the claim ends by itself; the fit is taken up again
            self._reporter.failed(span, error, INTERRUPTED)
            raise
        except Exception as error:
            await self._give_up(work, error)
            self._reporter.failed(span, error if isinstance(error, SpeechError) else internal_error(self.service))
        finally:
            renewing.cancel()

    async def _give_up(self, work: Work, error: Exception) -> None:
        log.error("a voice could not be fitted: %s", safe_traceback(error))
        why = error.message if isinstance(error, SpeechError) else WHY_FAILED
        with suppress(FitLost, SpeechError):  # the claim ends by itself, and the fit is tried again
            await asyncio.to_thread(self._fits.fail, work, why)

    async def _renew(self, work: Work, lost: threading.Event) -> None:
        """Renew the claim from the event loop: beside a full load, a step of the nice thread may take longer."""
        while True:
            await asyncio.sleep(CLAIM_S / 3)
            try:
                await asyncio.to_thread(self._fits.renew, work)
            except FitLost:
                lost.set()
                return
            except SpeechError as error:
                log.warning("the claim on a fit could not be renewed: %s", safe_traceback(error))

    def __del__(self) -> None:
        if reporter := getattr(self, "_reporter", None):  # absent if the constructor failed
            self._thread.shutdown(wait=False, cancel_futures=True)
            reporter.close()


def _be_nice(nice: int) -> None:
    """Give the calling thread, and those that it starts, a lower priority.

    The event loop, which answers, keeps its own: on Linux each thread has a niceness of its own. At 19 the thread is
    also of the class SCHED_IDLE, which gives way at once to a thread that wakes up. A nice thread would first use up
    its slice, at every barrier of the models' threads.
    """
    if nice and sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, nice)
        if nice >= 19:
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    elif nice:
        os.nice(nice)
