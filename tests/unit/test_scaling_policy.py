"""The scaling policy: figures in, figures out."""

from __future__ import annotations

import math
import random
import time

import pytest
from pydantic import ValidationError

from deployments.scaling.capacity import NEVER, Station, StepCost
from deployments.scaling.demand import Arrivals
from deployments.scaling.policy import ScalingPolicy, ServiceView
from deployments.scaling.settings import ScalingSettings
from deployments.scaling.work_log import Work, WorkLog, read

INGRESS, TTS, VOCODER = "ingress", "tts", "vocoder"
BASE, EACH, BATCH = 0.3, 0.1, 8


class Service:
    """One service, as its replicas' logs would report it: fluid, without chance."""

    def __init__(self, name: str, replicas: int, base: float, each: float, batch: int, limit: int = 0) -> None:
        self.name, self.base, self.each, self.batch, self.limit = name, base, each, batch, limit
        self.target = replicas
        self.works = {f"{name}-{number}": Work(batch=batch, limit=limit) for number in range(replicas)}
        self.least, self.most = 1, 32
        self.starting: list[float] = []
        self.queue = 0.0

    def second(self, now: float, rate: float, startup_s: float) -> float:
        """Let a second pass; returns the requests that left."""
        count = len(self.works)
        full = self.base + self.each * self.batch
        capacity = count * self.batch / full
        self.queue += rate
        left = min(self.queue, capacity)
        self.queue -= left
        size = min(max(left * full / max(count, 1), 1.0), self.batch)
        for name, work in self.works.items():
            steps = left / count / size
            self.works[name] = work._replace(
                age_s=work.age_s + 1,
                arrived=work.arrived + rate / count,
                done=work.done + left / count,
                steps=work.steps + steps,
                members=work.members + left / count,
                busy_s=work.busy_s + steps * (self.base + self.each * size),
                waiting=self.queue / count,
                computing=size if left else 0.0,
            )
        while len(self.starting) < self.target - count:
            self.starting.append(now + startup_s)
        for at in [at for at in self.starting if at <= now]:
            self.starting.remove(at)
            self.works[f"{self.name}-{now}-{len(self.works)}"] = Work(batch=self.batch, limit=self.limit)
        while len(self.works) > self.target:
            self.works.popitem()
        return left

    def view(self, now: float) -> ServiceView:
        reports = {name: (now, work) for name, work in self.works.items()}
        return ServiceView(self.name, len(self.works), self.target, self.least, self.most, reports)


class World:
    """Three services in a row."""

    def __init__(self, **settings) -> None:
        self.policy = ScalingPolicy(ScalingSettings(**settings), INGRESS)
        self.services = {
            INGRESS: Service(INGRESS, 1, 0.0, 0.01, 1, limit=64),
            TTS: Service(TTS, 1, BASE, EACH, BATCH),
            VOCODER: Service(VOCODER, 1, 0.0, 0.05, 1),
        }
        self.now = 1000.0
        self.changes = []
        self.history: list[dict[str, int]] = []

    def run(self, seconds: int, rate, startup_s: float = 5.0) -> None:
        for second in range(seconds):
            flow = rate(second) if callable(rate) else rate
            self.now += 1.0
            for service in self.services.values():
                flow = service.second(self.now, flow, startup_s)
            decision = self.policy.decide(self.now, [service.view(self.now) for service in self.services.values()])
            for name, target in decision.targets.items():
                self.services[name].target = target
            self.changes += decision.changes
            self.history.append(dict(decision.targets))

    def targets(self) -> dict[str, int]:
        return {name: service.target for name, service in self.services.items()}


def turns(series: list[int]) -> int:
    """Count the changes of direction."""
    steps = [b - a for a, b in zip(series, series[1:], strict=False) if b != a]
    return sum(a * b < 0 for a, b in zip(steps, steps[1:], strict=False))


def test_what_a_batch_costs_is_learned_by_its_size():
    cost = StepCost()
    for size in (1, 1, 1, 4, 8):
        cost.learn(10, 10 * size, 10 * (BASE + EACH * size), now=0.0)
    assert cost.base == pytest.approx(BASE, rel=0.1) and cost.per_member == pytest.approx(EACH, rel=0.1)


def test_a_batch_is_expected_to_gain_nothing_while_none_was_seen():
    cost = StepCost()
    cost.learn(10, 10, 4.0, now=0.0)
    assert cost.step_s(8) == pytest.approx(8 * 0.4)


def test_what_a_large_batch_took_is_remembered_while_only_small_ones_come():
    cost = StepCost()
    cost.learn(20, 160, 20 * (BASE + EACH * 8), now=0.0)
    for minute in range(60):
        cost.learn(60, 60, 60 * (BASE + EACH), now=60.0 * minute)
    assert cost.step_s(8) == pytest.approx(BASE + 8 * EACH, rel=0.1)


@pytest.mark.parametrize("steps, members, busy", [(0, 0, 0.0), (5, 4, 1.0), (1, 1, -1.0)])
def test_impossible_reports_teach_nothing(steps, members, busy):
    cost = StepCost()
    cost.learn(steps, members, busy, now=0.0)
    assert not cost.known


@pytest.mark.parametrize("station", [Station(0.3, 0.1, 8), Station(0.0, 0.05), Station(0.002, 0.0005, 32, 1, 200.0)])
def test_more_replicas_never_wait_longer_and_enough_wait_for_nothing(station):
    waits = [station.excess_s(10.0, replicas) for replicas in range(1, 200)]
    assert all(later <= earlier + 1e-9 for earlier, later in zip(waits[1:], waits[2:], strict=False))
    assert waits[-1] < 0.02
    assert station.excess_s(100 * station.capacity, 1) > NEVER


def test_one_alone_waits_as_the_formula_of_a_single_server_says():
    """P95 of M/D/1 at half load, by simulation: a queue of one server, exponential gaps, constant service."""
    chance = random.Random(1)
    at = free = 0.0
    waits = []
    for _ in range(100_000):
        at += chance.expovariate(0.5)
        waits.append(max(0.0, free - at))
        free = max(free, at) + 1.0
    simulated = sorted(waits)[95_000]
    assert Station(0.0, 1.0).excess_s(0.5, 1) == pytest.approx(simulated, rel=0.15)


def test_arrivals_are_spread_over_the_time_in_which_they_came():
    arrivals = Arrivals()
    arrivals.add(10, 0.5, 10.5)
    assert arrivals.rate(10.0, 4) == pytest.approx(1.0)
    assert arrivals.rate(10.0, 30) == pytest.approx(9.5 / 10)


def test_a_burst_is_believed_soon_and_chance_is_not():
    arrivals = Arrivals()
    arrivals.add(300, 0.0, 30.0)
    assert arrivals.usual(30.0) == pytest.approx(10.0)
    arrivals.add(12 * 2, 30.0, 32.0)
    assert arrivals.usual(32.0) < 11.0
    arrivals.add(40 * 4, 32.0, 36.0)
    assert arrivals.usual(36.0) > 30.0


def test_a_steady_climb_is_seen_ahead_and_a_jump_is_not():
    ramp, jump = Arrivals(), Arrivals()
    for second in range(120):
        ramp.add(10 + second / 4, second, second + 1)
        jump.add(10 if second < 80 else 40, second, second + 1)
    assert ramp.ahead(120.0, 20.0) == pytest.approx(10 + 140 / 4, rel=0.05)
    assert all(jump.ahead(float(at), 20.0) == 0.0 for at in range(1, 120))


def test_all_services_grow_at_once_and_before_the_queue_reaches_the_last_one():
    world = World()
    world.run(60, 1.0)
    world.run(6, 30.0)
    targets = world.targets()
    assert targets[TTS] >= 30 / (BATCH / (BASE + EACH * BATCH)) and targets[VOCODER] >= 30 * 0.05
    assert world.services[VOCODER].queue == 0.0, "nothing has queued there yet"


def test_after_a_step_it_turns_back_at_most_once():
    world = World(hold_s=30)
    world.run(60, 2.0)
    begun = len(world.history)
    world.run(240, 40.0)
    for name in world.services:
        assert turns([targets[name] for targets in world.history[begun:]]) <= 1
    assert world.services[TTS].queue < BATCH * world.targets()[TTS]
    begun = len(world.history)
    world.run(240, 2.0)
    for name in world.services:
        assert turns([targets[name] for targets in world.history[begun:]]) == 0
    assert world.targets()[TTS] <= 2


def test_a_shorter_wait_has_more_replicas():
    sizes = []
    for wait_s in (0.1, 0.3, 1.0, 3.0):
        world = World(wait_s=wait_s)
        world.run(300, 20.0)
        sizes.append(world.targets()[TTS])
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_the_cheaper_service_grows_first():
    dear = World(wait_s=0.4, cost={TTS: 100.0, VOCODER: 0.01})
    cheap = World(wait_s=0.4, cost={TTS: 0.01, VOCODER: 100.0})
    dear.run(300, 20.0)
    cheap.run(300, 20.0)
    assert dear.targets()[TTS] < cheap.targets()[TTS] and dear.targets()[VOCODER] >= cheap.targets()[VOCODER]


def test_a_service_at_its_most_does_not_make_the_others_grow_without_end():
    world = World()
    world.services[TTS].most = 2
    world.run(200, 30.0)
    assert world.targets()[TTS] == 2 and world.targets()[VOCODER] < 10


def test_it_stays_within_the_bounds_and_says_so():
    world = World()
    world.services[TTS].most = 3
    world.run(120, 40.0)
    assert world.targets()[TTS] == 3
    world.services[TTS].least = world.services[TTS].most = 5
    world.run(1, 40.0)
    assert [change.cause for change in world.changes if change.after == 5] == ["bounds"]


def test_a_dip_costs_no_replica():
    world = World(hold_s=60)
    world.run(120, 20.0)
    before = world.targets()[TTS]
    world.run(30, 1.0)
    assert world.targets()[TTS] == before
    world.run(120, 1.0)
    assert world.targets()[TTS] < before


def test_a_policy_that_has_just_started_stops_no_replica():
    """Serve's controller was restarted: the replicas are old acquaintances, and their counts are no news."""
    world = World(hold_s=60)
    world.run(200, 20.0)
    before = world.targets()
    world.policy = ScalingPolicy(world.policy.settings, INGRESS)
    world.run(20, 20.0)
    assert all(world.targets()[name] >= count for name, count in before.items())
    world.run(120, 20.0)
    assert abs(world.targets()[TTS] - before[TTS]) <= 1


@pytest.mark.parametrize("back_s", [600.0, 4e7])
def test_a_clock_that_is_set_back_holds_up_nothing(back_s):
    world = World(hold_s=60)
    world.now += 1e8
    world.run(200, 20.0)
    before = world.targets()[TTS]
    world.now -= back_s
    world.run(30, 20.0)
    assert world.targets()[TTS] >= before, "nothing is stopped for it"
    world.run(60, 60.0)
    assert world.targets()[TTS] > 2 * before
    world.run(200, 1.0)
    assert world.targets()[TTS] < before


def test_a_clock_that_is_set_forward_by_a_month_costs_no_time():
    arrivals, began = Arrivals(), time.thread_time()
    arrivals.add(3e6, 0.0, 3e6)
    assert time.thread_time() - began < 0.1 and arrivals.rate(3e6, 30) == pytest.approx(1.0)


def test_settings_that_no_replica_could_follow_are_refused():
    for wrong in ({"cost": {TTS: 0.0}}, {"cost": {TTS: -1.0}}, {"cost": {TTS: math.nan}}, {"hold_s": math.inf}):
        with pytest.raises(ValidationError):
            ScalingSettings(**wrong)


def test_a_service_that_may_be_stopped_is_stopped_when_idle_and_not_before():
    world = World(idle_s=100, hold_s=10)
    for service in world.services.values():
        service.least = 0
    world.run(50, 1.0)
    world.run(80, 0.0)
    assert min(world.targets().values()) == 1
    world.run(40, 0.0)
    assert max(world.targets().values()) == 0
    assert {change.cause for change in world.changes if change.after == 0} == {"idle"}


def test_a_service_that_serve_has_started_again_is_idle_no_sooner_than_after_its_start():
    """A new replica's first report may come before the request that it was started for."""
    world = World(idle_s=100, hold_s=10)
    tts = world.services[TTS]
    tts.least = 0
    world.run(50, 1.0)
    world.run(160, 0.0)
    assert tts.target == 0
    tts.target = 1  # by Serve, for a request that waits at a handle
    world.run(100, 0.0)
    assert tts.target == 1 and len(tts.works) == 1
    world.run(30, 0.0)
    assert tts.target == 0


def test_services_that_few_requests_reach_are_sized_for_those():
    """Voices are cached: one request of ten reaches the second service."""
    world = World()

    def second(now, rate, startup_s, original=world.services[TTS].second):
        return original(now, rate / 10, startup_s) * 10

    world.services[TTS].second = second
    world.run(400, 40.0)
    world.run(200, 40.0)
    assert world.targets()[TTS] <= 2


def test_replicas_that_report_nothing_leave_the_target_as_it_is():
    policy = ScalingPolicy(ScalingSettings(), INGRESS)
    decision = policy.decide(1.0, [ServiceView(TTS, 2, 5, 1, 8, {})])
    assert decision.targets == {TTS: 5} and not decision.changes


def test_an_ingress_at_its_limit_grows_whatever_its_cpu():
    policy = ScalingPolicy(ScalingSettings(), INGRESS)
    for second in range(10):
        work = Work(age_s=second + 1, arrived=second, done=second, steps=second, members=second,
                    busy_s=second * 0.001, computing=64, waiting=30, limit=64)  # fmt: skip
        decision = policy.decide(100.0 + second, [ServiceView(INGRESS, 1, 1, 1, 8, {"a": (100.0 + second, work)})])
    assert decision.targets[INGRESS] == math.ceil(94 / (0.8 * 64))
    assert [change.cause for change in decision.changes] == ["in_flight"]


def test_a_log_counts_and_what_it_says_is_read_back():
    now = [0.0]
    log = WorkLog(lambda: now[0])
    log.arrive()
    log.arrive()
    log.step(2, 0.5)
    log.wait(0.25)
    log.finish(2)
    now[0] = 9.0
    work = read(log.stats(waiting=3, computing=1, batch=8))
    assert work == Work(9.0, 2, 2, 1, 2, 0.5, 0.25, 3, 1, 8, 1, 0)
    assert read({"arrived": 1.0}) is None
