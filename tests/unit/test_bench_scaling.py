"""The simulation behind docs/scaling.md: its queues are queues, and its runs are the same each time."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from bench.autoscaling import arrivals, graph
from bench.autoscaling.graph import SPECS, Graph, Spec
from bench.scaling import Run, Setting, beside, run, turns


def answers(specs: tuple[Spec, ...], moments: np.ndarray, until: float) -> tuple[Graph, np.ndarray]:
    made = Graph(specs)
    for moment in moments:
        made.clock.at(float(moment), made.arrive)
    made.clock.run(until)
    return made, np.array([one.ended_s - one.came_s for one in made.requests if one.ok])


def poisson(rate: float, seconds: float) -> np.ndarray:
    chance = random.Random(3)
    moments, at = [], 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        moments.append(at)
    return np.array(moments)


FREE = tuple(replace(spec, base_s=0.0, each_s=0.0, spread=0.0, least=1, most=1) for spec in SPECS)


def test_a_service_alone_waits_as_the_formula_of_a_single_server_says():
    alone = tuple(replace(spec, each_s=0.05, batch=1) if spec.name == "tts-service" else spec for spec in FREE)
    _, found = answers(alone, poisson(12, 3000), 3100)
    load = 12 * 0.05
    assert found.mean() == pytest.approx(0.05 + load * 0.05 / (2 * (1 - load)), rel=0.05)


def test_a_full_batch_takes_all_that_wait_and_no_more():
    specs = tuple(
        replace(spec, base_s=1.0, each_s=0.1, batch=4) if spec.name == "tts-service" else spec for spec in FREE
    )
    _, found = answers(specs, np.full(6, 1.0), 20)
    assert sorted(found.round(3)) == [1.1, 2.5, 2.5, 2.5, 2.5, 3.6], "one starts alone, four together, the last alone"


def test_replica_seconds_are_counted_from_the_request_for_a_replica_to_its_last_answer():
    made = Graph()
    service = made.stages[2]
    service.scale(4)
    made.clock.run(10)
    service.scale(2)
    made.clock.run(100)
    assert service.replica_s == pytest.approx(2 * 10)
    assert service.seconds_until(100) == pytest.approx(2 * 100 + 2 * 10)


def test_an_ingress_refuses_what_it_can_not_hold():
    slow = tuple(replace(spec, each_s=5.0) if spec.name == "tts-service" else spec for spec in FREE)
    made, found = answers(slow, np.full(400, 1.0), 20)
    over = [one for one in made.requests if one.ended_s == one.ended_s and not one.ok]
    assert len(over) == 400 - graph.MAX_IN_FLIGHT - len(found), "some at once, some after max_wait_s"
    assert max(one.ended_s for one in over) <= 1.0 + graph.MAX_WAIT_S


def test_loads_are_the_same_at_every_run_and_open_loop():
    for name in arrivals.RATES | arrivals.HELD_OUT:
        moments = arrivals.recorded(name)
        assert np.array_equal(moments, arrivals.recorded(name)) and np.all(np.diff(moments) >= 0)
        assert len(moments) == pytest.approx(arrivals.rates(name).sum(), rel=0.03)
        assert not np.array_equal(moments, arrivals.recorded(name, seed=2))


@pytest.mark.parametrize("kind", ["ours", "default"])
def test_a_run_follows_the_load_and_is_the_same_each_time(kind, monkeypatch):
    rates = np.concatenate([np.full(60, 4.0), np.full(90, 30.0), np.full(60, 4.0)])
    monkeypatch.setitem(arrivals.RATES, "calm", lambda seed: rates)
    setting = Setting(kind, wait_s=0.5, up_s=0.0, down_s=0.0, every_s=1.0)
    found = run("calm", setting)
    assert found == run("calm", setting)
    assert found.most["tts-service"] > 4 and found.requests == len(arrivals.recorded("calm"))
    assert sum(found.by_service.values()) == pytest.approx(found.replica_s, abs=5)


def test_runs_are_compared_with_those_that_cost_or_wait_no_more():
    def made(kind: str, p99_s: float, replica_s: float) -> Run:
        return Run("day", Setting(kind), 1, 0, 0.1, p99_s, replica_s, {}, {}, 0, 0)

    others = [made("default", 4.0, 90), made("default", 1.0, 200), made("tuned", 3.0, 100)]
    found = beside(made("ours", 2.0, 100), others)
    assert found["default"]["p99_s with no more replicas"] == 4.0
    assert found["tuned"]["p99_s with no more replicas"] == 3.0
    assert found["default"]["replica_s with no longer a P99"] == 200
    assert turns([2, 2, 5, 5, 4, 4, 5, 5]) == 2
