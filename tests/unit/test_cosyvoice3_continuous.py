"""The continuous driver with the real engine: who shares a step, who leaves and what fails changes nobody's sound."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deployments.stages.continuous_batching import ContinuousBatcher
from engines.contract import Utterance, create
from speech.errors import InvalidInput
from tests.helpers.cosyvoice3 import distance, tiny_checkpoint  # noqa: F401


class Desk:
    """An acoustic model in its thread, and jobs with what each of them is alone."""

    def __init__(self, directory) -> None:
        engine = create(
            "cosyvoice3", {"model_dir": str(directory.path), "lm_rows": 3, "lm_positions": 3000, "flow_rows": 4}
        )
        clip = np.random.default_rng(1).standard_normal(24_000 * 3).astype(np.float32) / 10
        (voice,) = engine.load_speaker_encoder().encode([engine.prepare(clip, 24_000, "the clip")])
        self.executor = ThreadPoolExecutor(1)
        self.model = self.in_thread(engine.load_acoustic_model)
        texts = ["Hi.", "Hello there.", "The quick brown fox jumps over the lazy dog. " * 2, "好，今天好。"]
        self.jobs = [
            (Utterance(text, "zh-CN" if "好" in text else "en-US", seed=seed), voice)
            for seed, text in enumerate(texts * 3)
        ]
        self.alone = [self.in_thread(lambda job=job: self.model.generate([job])[0]) for job in self.jobs]

    def in_thread(self, work):
        return self.executor.submit(work).result()

    def rows(self) -> tuple[int, int]:
        return self.in_thread(lambda: (self.model.decoding, self.model.waiting))


@pytest.fixture(scope="module")
def desk(tiny):
    desk = Desk(tiny)
    yield desk
    desk.executor.shutdown()


def same(done, alone) -> bool:
    return distance(done.value.arrays["mel"], alone.arrays["mel"]) < 1e-5


def test_nobody_hears_who_comes_and_goes(desk):
    """Three rows for twelve requests at odd moments; the three long ones leave half-way."""

    async def scenario():
        driver, dice = ContinuousBatcher(desk.model, desk.executor), random.Random(5)

        async def one(number: int):
            await asyncio.sleep(dice.random() * 0.4)
            if number % 4 == 2:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(dice.random() * 0.05):
                        await driver.settle(desk.jobs[number])
                return None
            return await driver.settle(desk.jobs[number])

        return await asyncio.gather(*map(one, range(12)))

    results = asyncio.run(asyncio.wait_for(scenario(), 60))
    stayed = [(done, alone) for done, alone in zip(results, desk.alone, strict=True) if done is not None]
    assert len(stayed) == 9 and all(same(done, alone) for done, alone in stayed)
    assert max(done.size for done, _ in stayed) > 1 and desk.rows() == (0, 0)
    for done, _ in stayed:
        assert done.arrived_ns <= done.started_ns < done.ended_ns
        front, lm, *flows = done.value.phases
        assert done.arrived_ns <= front.start_ns <= front.end_ns <= lm.start_ns == done.started_ns
        assert max(phase.end_ns for phase in (lm, *flows)) <= done.ended_ns
        assert done.batch_id == flows[-1].tags["batch.id"]


def test_a_step_that_fails_once_costs_time_and_nothing_else(desk, monkeypatch):
    real, calls = desk.model.decoder._lm.body.step, []

    def step(*arguments):
        calls.append(len(arguments[0]))
        if len(calls) == 20:
            raise RuntimeError("out of memory")
        return real(*arguments)

    monkeypatch.setattr(desk.model.decoder._lm.body, "step", step)

    async def scenario():
        driver = ContinuousBatcher(desk.model, desk.executor)
        return await asyncio.gather(*(driver.settle(job) for job in desk.jobs[:6]))

    results = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert all(same(done, alone) for done, alone in zip(results, desk.alone, strict=False))
    assert 20 < len(calls) and calls[19] == 3, "three were in it"
    assert desk.rows() == (0, 0)


def test_one_that_cannot_be_said_is_refused_while_others_decode(desk):
    async def scenario():
        driver = ContinuousBatcher(desk.model, desk.executor)
        long = asyncio.create_task(driver.settle(desk.jobs[2]))
        await asyncio.sleep(0.02)
        refused = await driver.settle((Utterance("<b>x</b>", "en-US"), desk.jobs[0][1]))
        assert not long.done()
        return refused, await long

    refused, long = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert isinstance(refused.value, InvalidInput) and refused.size is None
    assert same(long, desk.alone[2])
