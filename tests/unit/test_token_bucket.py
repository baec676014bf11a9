"""Rates and requests under way, counted on a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from access.rate_limiter import RateLimiter, Refusal
from access.settings import CallerLimits
from access.token_bucket import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(bucket: TokenBucket, now: float, tries: int = 100) -> int:
    return sum(bucket.take(now) for _ in range(tries))


def test_a_bucket_gives_its_size_at_once_and_then_its_rate():
    bucket = TokenBucket(per_second=0.5, size=3, now=0)
    assert taken(bucket, 0) == 3 and bucket.wait_s(0) == 2
    assert bucket.wait_s(1.5) == 0.5 and not bucket.take(1.5)
    assert taken(bucket, 2) == 1
    assert taken(bucket, 1000) == 3, "never more than its size"


def test_whoever_waits_as_long_as_was_said_gets_through():
    bucket = TokenBucket(per_second=1 / 3, size=1, now=0.1)
    now = 0.1
    for _ in range(1000):
        assert bucket.take(now)
        now += bucket.wait_s(now)


def test_a_clock_that_goes_back_gives_and_takes_nothing():
    bucket = TokenBucket(per_second=1, size=2, now=10)
    assert taken(bucket, 10) == 2
    assert taken(bucket, 5) == 0 and taken(bucket, 10) == 0 and taken(bucket, 11) == 1


def test_other_limits_are_no_refill():
    bucket = TokenBucket(per_second=1, size=10, now=0)
    assert taken(bucket, 0, 4) == 4
    bucket.configure(per_second=1, size=3, now=0)
    assert taken(bucket, 0) == 3
    bucket.configure(per_second=2, size=100, now=0)
    assert taken(bucket, 0) == 0 and bucket.wait_s(0) == 0.5
    assert taken(bucket, 50) == 100 and not bucket.full(50) and bucket.full(100)


@given(st.floats(0.01, 100), st.integers(1, 50), st.lists(st.floats(0, 5), max_size=60))
def test_a_bucket_never_gives_more_than_its_size_and_its_rate_allow(per_second, size, pauses):
    bucket, now, got = TokenBucket(per_second, size, 0), 0.0, 0
    for pause in pauses:
        now += pause
        got += bucket.take(now)
        assert got <= size + now * per_second + 1e-6


@pytest.mark.parametrize(
    "limits, at_once",
    [
        ({"requests_per_minute": 60}, 10),
        ({"requests_per_minute": 60, "burst": 3}, 3),
        ({"requests_per_minute": 1}, 1),
        ({"requests_per_minute": 0.1}, 1),
    ],
)
def test_without_a_burst_it_is_what_ten_seconds_bring(limits, at_once, clock):
    limiter, limits = RateLimiter(clock=clock), CallerLimits(**limits)
    assert sum(limiter.acquire("a", limits, "x") is None for _ in range(50)) == at_once


def test_each_caller_has_its_own_rate(clock):
    limiter, limits = RateLimiter(clock=clock), CallerLimits(requests_per_minute=1, burst=2)
    assert [limiter.acquire("a", limits, "x") for _ in range(3)] == [None, None, Refusal("rate", 60.0)]
    assert limiter.acquire("b", limits, "x") is None
    clock.now += 60
    assert limiter.acquire("a", limits, "x") is None


def test_a_place_is_free_again_when_it_is_given_back(clock):
    limiter, limits = RateLimiter(clock=clock), CallerLimits(concurrent=2)
    assert [limiter.acquire("a", limits, lease) for lease in "xyz"] == [None, None, Refusal("concurrent", 1.0)]
    limiter.release("a", "x")
    limiter.release("a", "x")
    limiter.release("a", "never held")
    limiter.release("nobody", "x")
    assert limiter.acquire("a", limits, "z") is None and limiter.acquire("a", limits, "w") is not None
    assert limiter.acquire("b", limits, "x") is None


@pytest.mark.parametrize("late", ["acquire", "renew"])
def test_a_call_that_the_release_has_overtaken_holds_no_place(clock, late):
    limiter, limits = RateLimiter(lease_s=15, clock=clock), CallerLimits(concurrent=1)
    if late == "renew":
        limiter.acquire("a", limits, "first")
    limiter.release("a", "first")
    if late == "renew":
        limiter.renew([("a", "first")])
    else:
        limiter.acquire("a", limits, "first")
    assert limiter.under_way("a") == 0 and limiter.acquire("a", limits, "second") is None


def test_what_was_released_is_forgotten_when_nothing_can_be_on_its_way_any_more(clock):
    limiter = RateLimiter(lease_s=15, clock=clock)
    for number in range(100):
        limiter.release("a", str(number))
    assert len(limiter._released) == 100
    clock.now += 61
    limiter.acquire("b", CallerLimits(concurrent=1), "other")
    assert not limiter._released


def test_a_refusal_takes_nothing(clock):
    limiter, limits = RateLimiter(clock=clock), CallerLimits(requests_per_minute=1, burst=2, concurrent=1)
    assert limiter.acquire("a", limits, "x") is None
    assert [limiter.acquire("a", limits, "y").limit for _ in range(9)] == ["concurrent"] * 9, "and no token is lost"
    limiter.release("a", "x")
    assert limiter.acquire("a", limits, "y") is None
    limiter.release("a", "y")
    assert limiter.acquire("a", limits, "z").limit == "rate" and limiter.under_way("a") == 0, "and no place is held"


def test_places_of_an_ingress_that_died_are_free_when_nobody_renews_them(clock):
    limiter, limits = RateLimiter(lease_s=15, clock=clock), CallerLimits(concurrent=2)
    limiter.acquire("a", limits, "of the dead")
    limiter.acquire("a", limits, "of the living")
    for _ in range(3):
        clock.now += 5
        limiter.renew([("a", "of the living")])
    assert limiter.under_way("a") == 1
    assert limiter.acquire("a", limits, "next") is None


def test_a_limiter_that_starts_anew_learns_what_is_under_way(clock):
    limiter = RateLimiter(clock=clock)
    limiter.renew([("a", "x"), ("a", "y")])
    assert limiter.acquire("a", CallerLimits(concurrent=2), "z") is not None


def test_who_was_long_away_is_forgotten(clock):
    limiter = RateLimiter(lease_s=15, clock=clock)
    for number in range(100):
        limiter.acquire(f"at 192.0.2.{number}", CallerLimits(requests_per_minute=60, concurrent=1), "x")
    assert limiter.callers() == 100
    clock.now += 61
    limiter.acquire("a", CallerLimits(requests_per_minute=60), "x")
    assert limiter.callers() == 1
    limiter.acquire("a", CallerLimits(concurrent=1), "x")
    assert limiter.callers() == 1, "a rate that was lifted is forgotten too"


@pytest.mark.parametrize(
    "wrong",
    [
        {"burst": 3},
        {"requests_per_minute": 0},
        {"requests_per_minute": float("nan")},
        {"concurrent": 0},
        {"burst": 0, "requests_per_minute": 1},
        {"rate": 3},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        CallerLimits(**wrong)
