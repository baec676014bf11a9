"""What a replica's health check sees: threads that hang, work, or wait; a device that fails, or computes wrongly."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deployments.stages import health
from deployments.stages.health import ComputeHealth, Unhealthy, cpu_seconds
from engines import contract
from tests.helpers.cosyvoice3 import tiny_checkpoint  # noqa: F401


class Replica:
    """A compute thread, the vitals that watch it, and a clock of its own."""

    def __init__(self, probe=lambda: np.ones(4, np.float32), **limits) -> None:
        self.now, self.cpu, self.running = 0.0, 0.0, 0.0
        self.executor = ThreadPoolExecutor(1)
        self.let_go = threading.Event()
        self.vitals = ComputeHealth(
            "tts-service",
            self.executor,
            probe,
            lambda: self.running,
            clock=lambda: self.now,
            cpu_s=lambda: self.cpu,
            **{"stuck_after_s": 10, "wedged_after_s": 120, **limits},
        )

    def occupy(self) -> None:
        self.executor.submit(self.let_go.wait, 30)

    def check(self) -> None:
        asyncio.run(self.vitals.check())


@pytest.fixture
def replica(monkeypatch):
    monkeypatch.setattr(health, "WAIT_S", 0.05)
    made = Replica()
    yield made
    made.let_go.set()
    made.executor.shutdown()


def test_a_replica_computes_its_probe_now_and_then():
    asked = []

    def probe():
        asked.append(None)
        return np.ones(4)

    replica = Replica(probe)
    for second in (0, 3, 6, 9, 12, 15, 18, 21, 24):
        replica.now = second
        replica.check()
    assert len(asked) == 1 + 3  # the first when it had been loaded


def test_a_batch_that_does_not_move_is_stuck_before_any_probe_is_due(replica):
    replica.check()
    replica.running = 1.0
    for replica.now in (3, 6, 9):
        replica.check()
    replica.now, replica.running = 13.1, 11.0
    with pytest.raises(Unhealthy, match="has had work for 10 s and has not moved"):
        replica.check()
    replica.running = 0.0  # and is idle again
    replica.check()


def test_a_thread_that_has_work_and_does_not_move_is_stuck(replica):
    replica.occupy()
    replica.check()
    replica.now = 9.9
    replica.check()
    replica.now = 10.1
    with pytest.raises(Unhealthy, match="tts-service: the thread that computes has had work for 10 s and has not"):
        replica.check()
    replica.let_go.set()
    time.sleep(0.05)
    replica.check()  # it has moved after all


def test_a_thread_that_works_is_not_stuck_however_long_it_takes(replica):
    replica.occupy()
    for second in range(0, 100, 5):
        replica.now, replica.cpu = second, second * 0.01  # a hundredth of a core: the machine is very busy
        replica.check()


def test_time_without_work_does_not_count(replica):
    replica.check()
    replica.now = 1000.0
    replica.occupy()
    replica.check()


def test_one_batch_may_not_take_for_ever_even_if_it_works(replica):
    replica.running, replica.cpu = 121.0, 500.0
    with pytest.raises(Unhealthy, match="one batch or step has been computing for 121 s"):
        replica.check()


def test_without_anything_to_probe_a_long_batch_is_seen_all_the_same():
    replica = Replica(probe=None)
    replica.check()
    replica.running = 121.0
    with pytest.raises(Unhealthy):
        replica.check()


@pytest.mark.parametrize("found", [np.full(4, 1.1), np.full(4, np.nan), np.ones(3)])
def test_a_device_that_computes_something_else_is_seen(found):
    values = iter([np.ones(4), np.ones(4) + 1e-6])
    replica = Replica(lambda: next(values, found))
    replica.check()
    for replica.now in (10, 13, 16):  # a probe that failed is made again at the next check, or Serve would forget it
        with pytest.raises(Unhealthy, match="no longer computes what it did"):
            replica.check()


def test_a_device_that_raises_is_seen_and_not_quoted():
    values = iter([np.ones(4)])

    def probe():
        for value in values:
            return value
        raise RuntimeError("CUDA error: private words")

    replica = Replica(probe)
    with pytest.raises(Unhealthy, match=r"failed at something small \(RuntimeError\)") as caught:
        replica.check()
    assert "private" not in str(caught.value)


def test_cpu_time_is_the_threads_own():
    executor = ThreadPoolExecutor(1)
    executor.submit(time.sleep, 0.05).result()
    asleep = cpu_seconds(executor._threads)
    executor.submit(lambda: sum(range(3_000_000))).result()
    assert asleep < 0.01 < cpu_seconds(executor._threads) - asleep
    executor.shutdown()
    assert cpu_seconds(executor._threads) == 0.0  # they have ended


@pytest.mark.parametrize("part", ["load_speaker_encoder", "load_acoustic_model", "load_vocoder"])
@pytest.mark.parametrize("name", ["embedded", "cosyvoice3", "simulated"])
def test_every_engine_can_be_probed_and_says_the_same_every_time(name, part, tiny):
    options = {"model_dir": str(tiny.path)} if name == "cosyvoice3" else {}
    model = getattr(contract.create(name, options), part)()
    assert isinstance(model, contract.Probed)
    first = model.probe()
    assert first.size and np.isfinite(first).all() and np.abs(first).max() > 0
    np.testing.assert_array_equal(model.probe(), first)
