"""The ingress's side of the limiter: real ledgers, a limiter that can be away, slow, or new."""

import asyncio

import pytest

from access.limiter import Limiter
from access.limiter_client import RateLimitClient
from access.rate_limiter import RateLimiter
from access.settings import CallerLimits
from speech.errors import RateLimited

RATE = CallerLimits(requests_per_minute=1, burst=2)
PLACES = CallerLimits(concurrent=2)


class Distant(Limiter):
    """The real one, behind a line that can break."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = "well"

    async def _line(self) -> None:
        if self.mode == "broken":
            raise ConnectionError("no such replica")
        if self.mode == "silent":
            await asyncio.sleep(3600)

    async def enter(self, *args):
        await self._line()
        result = await super().enter(*args)
        if self.mode == "loses answers":
            await asyncio.sleep(3600)
        return result

    async def leave(self, *args):
        await self._line()
        await super().leave(*args)

    async def renew(self, *args):
        await self._line()
        return await super().renew(*args)


async def connected(limiter: Limiter | None, answer_within_s: float = 5.0) -> RateLimitClient:
    counting = RateLimitClient(limiter, answer_within_s=answer_within_s, heartbeat_s=0.02, look_every_s=0.02)
    counting.start()
    await until(lambda: counting.present)
    return counting


async def until(condition, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def allowed(counting: RateLimitClient, limits: CallerLimits, tries: int = 5) -> list:
    leases = []
    for _ in range(tries):
        try:
            leases.append(await counting.enter("a", limits))
        except RateLimited:
            pass
    return leases


def test_limits_hold_over_all_that_ask_one_limiter():
    async def main():
        limiter = Limiter()
        first, second = await connected(limiter), await connected(limiter)
        assert len(await allowed(first, RATE, 1)) == 1 and len(await allowed(second, RATE)) == 1
        assert len(await allowed(first, RATE)) == 0
        held = await allowed(first, PLACES, 1) + await allowed(second, PLACES)
        assert len(held) == 2
        first.leave(held[0])
        await asyncio.sleep(0.02)
        assert len(await allowed(second, PLACES)) == 1
        assert first.counters() == {"refused": 5, "alone": 0, "lost": 0, "under_way": 0, "limiter_present": 1}

    asyncio.run(main())


@pytest.mark.parametrize("limits, code, retry", [(RATE, "too_many_requests", 60), (PLACES, "too_many_at_once", 1)])
def test_a_refusal_says_which_limit_it_was_and_when_to_come_back(limits, code, retry):
    async def main():
        counting = RateLimitClient(None)
        await allowed(counting, limits, 2)
        with pytest.raises(RateLimited) as refused:
            await counting.enter("a", limits)
        assert (refused.value.status, refused.value.type, refused.value.code) == (429, "rate_limited", code)
        assert refused.value.headers() == {"Retry-After": str(retry)}

    asyncio.run(main())


def test_the_time_to_come_back_is_rounded_up():
    async def main():
        counting = RateLimitClient(None)
        await counting.enter("a", CallerLimits(requests_per_minute=50, burst=1))
        with pytest.raises(RateLimited) as refused:
            await counting.enter("a", CallerLimits(requests_per_minute=50, burst=1))
        assert refused.value.headers() == {"Retry-After": "2"}, "1.2 s"

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["broken", "silent"])
def test_while_the_limiter_is_away_each_replica_counts_for_itself_and_nobody_waits(mode, caplog):
    async def main():
        limiter = Distant()
        counting = await connected(limiter, answer_within_s=0.05)
        limiter.mode = mode
        began = asyncio.get_running_loop().time()
        assert len(await allowed(counting, RATE, 50)) == 2, "the whole limit, and no more"
        assert asyncio.get_running_loop().time() - began < 2, "one waits for the time limit, the others not at all"
        assert counting.counters() | {"refused": 0} == {
            "refused": 0,
            "alone": 50,
            "lost": 1,
            "under_way": 0,
            "limiter_present": 0,
        }
        assert caplog.text.count("the limiter is away") == 1
        limiter.mode = "well"
        if mode == "broken":  # the heartbeat under way, too, is given up only after its own time limit
            await until(lambda: counting.present)
            assert len(await allowed(counting, RATE)) == 2, "the limiter's own count goes on"

    asyncio.run(main())


def test_requests_under_way_are_known_to_a_limiter_that_comes_back():
    async def main():
        limiter = Distant()
        counting = await connected(limiter)
        held = await allowed(counting, PLACES, 1)
        limiter.mode = "broken"
        held += await allowed(counting, PLACES)
        assert len(held) == 2, "the one that the limiter granted counts here as well"
        limiter._ledger = RateLimiter()
        limiter.mode = "well"
        await until(lambda: counting.present)
        assert limiter._ledger.under_way("a") == 2
        for lease in held:
            counting.leave(lease)
        await until(lambda: limiter._ledger.under_way("a") == 0)

    asyncio.run(main())


def test_what_the_limiter_granted_too_late_is_given_back():
    async def main():
        limiter = Distant()
        counting = await connected(limiter, answer_within_s=0.05)
        limiter.mode = "loses answers"
        [lease] = await allowed(counting, PLACES, 1)
        assert counting.alone == 1
        await until(lambda: counting.present)
        counting.leave(lease)
        await until(lambda: limiter._ledger.under_way("a") == 0)

    asyncio.run(main())


def test_a_request_that_is_cancelled_while_it_asks_holds_nothing():
    async def main():
        limiter = Distant()
        counting = await connected(limiter)
        limiter.mode = "loses answers"
        asking = asyncio.create_task(counting.enter("a", PLACES))
        await until(lambda: limiter._ledger.under_way("a") == 1)
        asking.cancel()
        await until(lambda: limiter._ledger.under_way("a") == 0)
        assert asking.cancelled() and counting.counters()["under_way"] == 0 and counting.present

    asyncio.run(main())


def test_leases_are_renewed_for_as_long_as_they_are_held():
    async def main():
        limiter = Limiter()
        limiter._ledger = RateLimiter(lease_s=0.1)
        counting = await connected(limiter)
        [lease] = await allowed(counting, CallerLimits(concurrent=1), 1)
        await asyncio.sleep(0.3)
        assert limiter._ledger.under_way("a") == 1
        counting.leave(lease)
        counting.leave(lease)
        await until(lambda: limiter._ledger.under_way("a") == 0)

    asyncio.run(main())
