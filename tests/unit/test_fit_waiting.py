"""Requests that wait for a fit (`fit=wait`): in the ingress, beside a real store, with fits that a test makes."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from deployments.ingress import fitting
from deployments.ingress.context import FitProgress, RequestContext
from deployments.ingress.fitting import Fitting
from deployments.settings import Limits
from engines import contract
from engines.contract import FitOutcome, Voice
from speech import requests
from speech.errors import Conflict, DeadlineExceeded, InvalidInput, Overloaded
from tests.helpers.enrolments import store
from tracing import Tracer, vocabulary
from voices import Voices, VoiceSettings

ENGINE = ("simulated", "1")
STEERED = {"embedding": np.zeros(3, np.float32)}
CAN = contract.create("simulated", {"fit_ms": 1}).capabilities


class Handle:
    """A handle of fitting-service, which counts its calls and never answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.work = self

    async def remote(self) -> int:
        self.calls += 1
        await asyncio.Event().wait()
        return 0


@pytest.fixture
def voices(tmp_path) -> Voices:
    return Voices.open(VoiceSettings(url=str(tmp_path)))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(fitting, "WAIT_S", 0.01)


def fits(voices, handle=None, **limits) -> Fitting:
    return Fitting(handle or Handle(), voices, CAN, Limits(**limits))


def request() -> tuple[RequestContext, list[FitProgress]]:
    tracer, seen = Tracer("cosyvoice3-api"), []
    root = tracer.server("POST /api/generate", parent=None)
    ctx = RequestContext(tracer, root, 60.0, root.start_ns)
    ctx.on_progress = seen.append
    return ctx, seen


async def serve(voices: Voices, kept: bool = True, seen: list[FitProgress] | None = None) -> None:
    """Make the next fit, as fitting-service would; each step waits until a request has `seen` it."""
    while (work := await asyncio.to_thread(voices.fits.take, ENGINE, "service")) is None:
        await asyncio.sleep(0.01)
    for step in (1, 2):
        voices.fits.keep(work, step, 2)
        while seen is not None and (not seen or seen[-1].step != step):
            await asyncio.sleep(0.01)
    voice = Voice({"embedding": np.ones(3, np.float32)})
    voices.fits.finish(work, FitOutcome(voice, kept, "" if kept else "no", "all_steps", 2, 0.5, 0.3, 1.0))


def test_a_stored_voice_is_waited_for_and_every_step_is_told(voices):
    record, _ = store(voices)
    ctx, seen = request()

    async def scenario():
        await asyncio.wait_for(asyncio.gather(fits(voices).wait_for_voice(record, ctx), serve(voices, seen=seen)), 30)

    asyncio.run(scenario())
    assert [(one.state, one.step) for one in seen][-3:] == [("running", 1), ("running", 2), ("done", 2)]
    assert voices.fits.result(record, ENGINE)
    assert ctx.finish(200)[0].tags[vocabulary.FIT_WAIT_MS] > 0


def test_a_fit_that_has_ended_is_not_waited_for_whatever_came_of_it(voices):
    record, _ = store(voices)
    asyncio.run(serve(voices, kept=False))
    ctx, seen = request()
    asyncio.run(asyncio.wait_for(fits(voices).wait_for_voice(record, ctx), 1))
    assert [one.state for one in seen] == ["kept_steered"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_clip_is_fitted_or_stays_steered(voices, kept):
    ctx, seen = request()

    async def scenario():
        found, _ = await asyncio.gather(fits(voices).fitted_clip(b"a clip", STEERED, ctx), serve(voices, kept, seen))
        return found

    found = asyncio.run(asyncio.wait_for(scenario(), 30))
    assert (found is not None) is kept and seen[-1].state == ("done" if kept else "kept_steered")
    assert voices.all() == [], "the clip is not stored"
    end = time.monotonic() + 20
    while voices.fits.folders() and time.monotonic() < end:
        time.sleep(0.01)
        voices.fits.prune()
    assert voices.fits.folders() == set(), "nor is what was found in it, once the request has ended"


def test_a_client_that_leaves_leaves_no_work_behind(voices):
    async def scenario():
        waiting = asyncio.create_task(fits(voices).fitted_clip(b"a clip", STEERED, request()[0]))
        while not voices.fits.pending(ENGINE):
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        while voices.fits.pending(ENGINE):
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_voice_deleted_meanwhile_is_not_waited_for(voices):
    record, _ = store(voices)
    ctx, _ = request()

    async def scenario():
        waiting = asyncio.create_task(fits(voices).wait_for_voice(record, ctx))
        await asyncio.sleep(0.1)
        voices.delete(record)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_the_wait_has_an_end_and_the_fit_goes_on(voices):
    record, _ = store(voices)
    with pytest.raises(DeadlineExceeded, match="within 0.1 s") as late:
        asyncio.run(fits(voices, fit_deadline_s=0.1).wait_for_voice(record, request()[0]))
    assert late.value.code == "fit_not_ready" and voices.fits.pending(ENGINE) == 1


def test_only_so_many_wait_at_a_time(voices):
    record, _ = store(voices)
    one = fits(voices, max_fit_waiting=1, fit_deadline_s=5)

    async def scenario():
        waiting = asyncio.create_task(one.wait_for_voice(record, request()[0]))
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded) as refused:
            await one.wait_for_voice(record, request()[0])
        assert refused.value.code == "too_many_wait_for_fits" and refused.value.retry_after_s
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert one._waiting == 0, "a client that leaves gives its place back"

    asyncio.run(scenario())


def test_where_no_voices_are_fitted_nothing_is_waited_for(voices):
    record, _ = store(voices)
    off = Fitting(None, voices, CAN)
    with pytest.raises(Conflict) as refused:
        asyncio.run(off.wait_for_voice(record, request()[0]))
    assert refused.value.code == "fits_off"


def test_fitting_service_is_called_at_the_start_for_what_is_left_and_again_after_it_died(voices, monkeypatch):
    monkeypatch.setattr(fitting, "RETRY_S", 0.01)
    for number in range(6):
        store(voices, f"name{number}", f"clip{number}")

    class Dying(Handle):
        async def remote(self) -> int:
            self.calls += 1
            if self.calls <= fitting.MOST_CALLS:
                raise RuntimeError("the replica died")
            await asyncio.Event().wait()
            return 0

    async def scenario():
        handle = Dying()
        one = fits(voices, handle)
        one.start()
        while handle.calls < 2 * fitting.MOST_CALLS:
            await asyncio.sleep(0.01)
        assert one.counters()["fits_calls_failed"] == 1
        one._calling.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_the_field_says_wait_or_nothing():
    fields = {"text": "Hello", "dialect": "en-US"}
    assert requests.parse(fields).waits_for_fit is False
    assert requests.parse(fields | {"fit": "wait"}).waits_for_fit is True
    with pytest.raises(InvalidInput) as refused:
        requests.parse(fields | {"fit": "yes"})
    assert (refused.value.param, refused.value.code) == ("fit", "fit_unknown")
