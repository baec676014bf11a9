"""A stream runs as far ahead as its plan says: by the plan alone, and in a simulated graph."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from dataclasses import dataclass, field
from statistics import fmean

import pytest

from deployments.ingress.continuity import Continuity
from deployments.ingress.run_ahead import RunAhead
from deployments.ingress.stream_plan import StreamPlan
from speech.utterance import Utterance
from tests.unit.test_run_ahead import Clock, learned, say

HOLD_S = 1.0
FACTOR = 0.05  #: seconds of the device for a second of speech


def plan_of(ahead: RunAhead, clock: Clock, *characters: int, at_once: int = 4, chunked: bool = False) -> StreamPlan:
    return StreamPlan(ahead, chunked, at_once, Continuity(clock), utterances=[say(count) for count in characters])


def started(plan: StreamPlan, *numbers: int) -> list[float]:
    """Start pieces, in order; returns when each is due."""
    return [plan.start(plan.utterances[number]) for number in numbers]


def test_the_second_piece_starts_with_a_first_one_that_is_too_short_for_it():
    clock = Clock()
    ahead = learned(clock, {1.0: 1.0, 2.0: 2.0, 4.0: 4.0})
    assert plan_of(ahead, clock, 10, 60).at_first == 2
    assert plan_of(ahead, clock, 60, 10).at_first == 1
    assert plan_of(ahead, clock, 10).at_first == 1
    assert plan_of(RunAhead(clock), clock, 10, 60).at_first == 1, "nothing is known"
    assert plan_of(ahead, clock, 10, 60, chunked=True).at_first == 1


def test_a_piece_is_due_when_its_listener_needs_it_less_its_own_time():
    clock = Clock()
    plan = plan_of(learned(clock, {2.0: 1.0, 4.0: 2.0, 6.0: 3.0}), clock, 40, 20, 20, 20)
    assert started(plan, 0, 1, 2) == [0, pytest.approx(4.0 - 1.0), pytest.approx(6.0 - 1.0)]
    with plan.continuity.sending(4.0):
        pass
    clock.now += 3.5
    assert started(plan, 3) == [pytest.approx(0.5 + 4.0 - 1.0)], "half a second of the first is left, and two more"


def test_a_need_is_the_worst_of_all_pieces_to_come():
    clock = Clock()
    plan = plan_of(learned(clock, {2.0: 2.0, 4.0: 4.0, 10.0: 10.0}), clock, 20, 40, 100)
    started(plan, 0)
    clock.now += 2.0
    plan.add(0, 2.0, True)
    started(plan, 1, 2)
    assert plan.need_s() == pytest.approx(14.0 - 6.0), "one device makes the second and then the third"
    clock.now += 3.0
    assert plan.need_s() == pytest.approx(11.0 - 6.0)
    plan.add(1, 4.0, True)
    clock.now += 1.5
    assert plan.need_s() == pytest.approx(10.0 - 4.5 - 6.0, abs=0.6), "it takes as long as it took"
    plan.add(2, 10.0, True)
    assert plan.need_s() is None


def test_an_overdue_piece_is_expected_to_take_longer_still():
    clock = Clock()
    plan = plan_of(learned(clock, {2.0: 1.0, 4.0: 1.0, 6.0: 1.0}), clock, 20, 20)
    started(plan, 0)
    plan.add(0, 2.0, True)
    started(plan, 1)
    clock.now += 12.0
    assert plan.need_s() == pytest.approx(3.0 - 2.0)


def test_the_critical_pieces_of_recent_streams_correct_what_is_expected():
    clock = Clock()
    ahead = learned(clock, {2.0: 1.0, 4.0: 2.0, 6.0: 3.0})
    for _ in range(3):
        plan = plan_of(ahead, clock, 20, 60, 20)
        started(plan, 0)
        plan.add(0, 2.0, True)
        started(plan, 1, 2)
        need = plan.need_s()
        assert need == pytest.approx(ahead.latency_s(6.0) * ahead.correction - 2.0)
        plan.release()
        clock.now += 1.5 * ahead.latency_s(6.0)
        plan.add(2, 2.0, True)
        plan.add(1, 6.0, True)
    assert ahead.correction == pytest.approx(1.5)


def test_a_stream_of_chunks_is_held_as_long_as_recent_ones_needed():
    clock = Clock()
    ahead = RunAhead(clock)

    def begun() -> StreamPlan:
        plan = plan_of(ahead, clock, 50, chunked=True)
        started(plan, 0)
        plan.add(0, 1.0, False)
        return plan

    for _ in range(3):
        plan = begun()
        assert asyncio.run(plan.hold(0.0)) == 0
        clock.now += 1.4
        plan.add(0, 2.0, False)
        clock.now += 0.5
        plan.add(0, 1.0, False)
        plan.add(0, 0.0, True)
    plan = begun()
    assert plan.need_s() == ahead.chunks_need_s == pytest.approx(0.4)
    clock.now += 0.3
    assert plan.need_s() == pytest.approx(0.1)
    plan.add(0, 2.0, False)
    assert plan.need_s() < 0, "the chunk that was waited for is there"


def test_a_hold_ends_by_itself_with_the_piece_or_at_its_limit():
    async def held(ahead: RunAhead, after_s: float | None, most_s: float) -> float:
        plan = StreamPlan(ahead, False, 4, Continuity(), utterances=[say(3), say(10)])
        started(plan, 0)
        plan.add(0, 0.3, True)
        started(plan, 1)
        if after_s is not None:
            asyncio.get_running_loop().call_later(after_s, plan.add, 1, 1.0, True)
        return await plan.hold(most_s)

    def taking(seconds: float) -> RunAhead:
        ahead = RunAhead()
        for _ in range(20):
            ahead.note_piece(say(10), 1.0, seconds)
        return ahead

    assert asyncio.run(held(taking(0.6), None, 5.0)) == pytest.approx(0.3, abs=0.1), "less what is heard meanwhile"
    assert asyncio.run(held(taking(3.0), 0.2, 5.0)) == pytest.approx(0.2, abs=0.1)
    assert asyncio.run(held(taking(3.0), None, 0.3)) == pytest.approx(0.3, abs=0.1)
    assert asyncio.run(held(taking(3.0), None, 0.0)) == pytest.approx(0.0, abs=0.05)


# A graph of one device, which computes one piece after the other; streams come at random.


@dataclass
class Job:
    plan: StreamPlan
    arrived: float
    texts: list[Utterance]
    started: int = 0
    ready: dict[int, float] = field(default_factory=dict)
    first_at: float | None = None
    release: float | None = None
    handed: int = 0


def simulate(rule: bool, load: float, seed: int = 1, streams: int = 400) -> tuple[float, float]:
    """Run streams through the device; returns the share of continuous ones and the mean time to the first sound.

    Args:
        rule: pieces are taken when they are due, with holds; otherwise in their order, at once.
        load: seconds of work for each second.
    """
    clock, chance, at_once, factor = Clock(), random.Random(seed), 4, FACTOR
    ahead = RunAhead(clock)
    queue: list[tuple[float, int, Job, int]] = []
    events: list[tuple[float, int, str, Job | None, int]] = []
    count = iter(range(10**9))
    jobs: list[Job] = []
    busy = False

    def at(when: float, what: str, job: Job | None = None, number: int = 0) -> None:
        heapq.heappush(events, (when, next(count), what, job, number))

    def start(job: Job) -> None:
        """Do what `StartPlan.room` does, on the simulation's clock."""
        while (number := job.started) < len(job.texts):
            if (wait_s := job.plan.wait_s(job.texts[number])) > 1e-9:
                if wait_s < math.inf:
                    at(clock.now + wait_s, "room", job)
                return
            due_s = job.plan.start(job.texts[number])
            due = clock.now + (due_s if number else HOLD_S)
            heapq.heappush(queue, (due if rule else clock.now, next(count), job, number))
            job.started = number + 1

    def hand_over(job: Job) -> None:
        while job.release is not None and clock.now >= job.release - 1e-9 and job.handed in job.ready:
            with job.plan.continuity.sending(job.ready[job.handed]):
                job.plan.taken(job.handed)
                job.handed += 1

    def hold(job: Job) -> None:
        """Do what `StreamPlan.hold` does, on the simulation's clock."""
        if job.release is not None or job.first_at is None:
            return
        need, left = job.plan.need_s() or 0.0, job.first_at + HOLD_S - clock.now
        if not rule or need <= 1e-9 or left <= 1e-9:
            job.release = job.plan.release()
        else:
            at(clock.now + min(need, left), "hold", job)

    moment = clock.now
    for _ in range(streams):
        lengths = [max(8, round(chance.expovariate(1 / 55))) for _ in range(chance.randint(2, 6))]
        moment += chance.expovariate(load / (factor * 0.1 * sum(lengths)))
        texts = [say(length) for length in lengths]
        at(moment, "arrive", Job(StreamPlan(ahead, False, at_once, Continuity(clock), rule, texts), moment, texts))
    while events:
        clock.now, _, what, job, number = heapq.heappop(events)
        if job is not None:
            if what == "arrive":
                jobs.append(job)
            elif what == "ready":
                busy = False
                job.ready[number] = 0.1 * len(job.texts[number].text)
                job.plan.add(number, job.ready[number], True)
                if number == 0:
                    job.first_at = clock.now
            hold(job)
            hand_over(job)
            start(job)
        if not busy and queue:
            _, _, next_job, piece = heapq.heappop(queue)
            busy = True
            at(clock.now + 0.05 + factor * 0.1 * len(next_job.texts[piece].text), "ready", next_job, piece)
    late = jobs[len(jobs) // 10 :]  # the first ones know nothing yet
    waits = [job.release - job.arrived for job in late if job.release is not None]
    return sum(job.plan.continuity.continuous for job in late) / len(late), sum(waits) / len(waits)


def test_the_rule_keeps_streams_continuous_and_under_a_light_load_makes_nobody_wait():
    shares = []
    for seed in (1, 2, 3):
        (without, wait_without), (by_rule, wait) = simulate(False, 0.5, seed), simulate(True, 0.5, seed)
        assert by_rule > without + 0.1 and wait < wait_without
        shares.append(by_rule)
        (_, wait_without), (by_rule, wait) = simulate(False, 0.05, seed), simulate(True, 0.05, seed)
        assert by_rule >= 0.98 and wait < wait_without + 0.1
    assert fmean(shares) >= 0.97
