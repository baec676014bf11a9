"""The decoding step as a function of fixed shapes: traceable, few launches, never waits; padded and ahead as exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engines.cosyvoice3 import speech_lm
from engines.cosyvoice3.batch import Batch
from engines.cosyvoice3.capture import Graphs
from engines.cosyvoice3.decoder import Decoder, Job, Row
from engines.cosyvoice3.sampling import Sampler
from tests.helpers.cosyvoice3 import tiny_checkpoint  # noqa: F401
from tests.helpers.recording import replaying


@pytest.fixture(scope="module")
def lm(tiny):
    return speech_lm.load(tiny)


@pytest.fixture(scope="module")
def settings(tiny):
    return tiny.numbers.llm.sampling


def job(settings, seed: int, text: int, prompt: int, most: int, least: int = 5) -> Job:
    random = np.random.default_rng(seed)
    return Job(
        random.integers(0, 500, text).tolist(),
        random.integers(0, 6561, prompt).tolist(),
        Sampler(settings, 6561, seed, least),
        most,
    )


#: text tokens, prompt tokens, most tokens
SHAPES = [(5, 0, 40), (60, 0, 11), (17, 90, 70), (1, 1, 1), (33, 7, 25), (9, 200, 60), (4, 0, 33)]


def jobs(settings) -> list[Job]:
    return [job(settings, seed, *shape) for seed, shape in enumerate(SHAPES)]


def spoken(decoder: Decoder, settings) -> list[list[int]]:
    """All jobs, coming two steps after each other."""
    rows = []
    for one in jobs(settings):
        rows.append(decoder.submit(one))
        decoder.step()
        decoder.step()
    decoder.run()
    assert decoder.active == decoder.waiting == 0
    return [row.picked for row in rows]


@pytest.fixture(scope="module")
def exact(lm, settings):
    return [spoken(Decoder(lm, rows=1, positions=320), settings) for _ in range(2)][1]


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
@pytest.mark.parametrize("recorder", [None, replaying])
def test_neither_padding_nor_running_ahead_changes_what_is_said(lm, settings, exact, ahead, recorder):
    decoder = Decoder(lm, rows=5, positions=320, ahead=ahead, recorder=recorder)
    assert spoken(decoder, settings) == exact
    if recorder:
        assert 2 <= len(decoder.graphs) <= 20 and not decoder.graphs.failed


@pytest.mark.parametrize("stretch", [1, 7, 64])
def test_a_prompt_read_in_stretches_is_read_the_same(lm, settings, exact, stretch):
    for recorder in (None, replaying):
        assert spoken(Decoder(lm, rows=3, positions=320, stretch=stretch, recorder=recorder), settings) == exact


def test_a_long_prompt_does_not_stop_who_decodes(lm, settings):
    decoder = Decoder(lm, rows=2, positions=600, stretch=16)
    speaks = decoder.submit(job(settings, 0, 5, 0, 100, least=100))
    decoder.step()
    reads = decoder.submit(job(settings, 1, 300, 200, 5))
    for count in range(2, 30):
        decoder.step()
        assert len(speaks.picked) == count and not reads.picked and reads.joined_ns is not None
    decoder.run()
    assert len(speaks.picked) == 100 and reads.picked


def test_warming_up_records_every_shape_beforehand(lm, settings, exact):
    decoder = Decoder(lm, rows=5, positions=320, recorder=replaying)
    count = decoder.warm()
    assert count == len(decoder.graphs) > 10
    assert spoken(decoder, settings) == exact and len(decoder.graphs) == count
    assert Decoder(lm, rows=5, positions=320).warm() == 0, "a CPU has nothing to record"


def test_cancelling_while_steps_are_in_flight_disturbs_nobody(lm, settings, exact):
    decoder = Decoder(lm, rows=4, positions=320, ahead=3, stretch=20, recorder=replaying)
    rows = [decoder.submit(one) for one in jobs(settings)]
    for steps, index in ((4, 1), (3, 2), (1, 5), (6, 0)):
        for _ in range(steps):
            decoder.step()
        decoder.cancel(rows[index])
    decoder.run()
    for index in (3, 4, 6):
        assert rows[index].picked == exact[index]
    assert all(rows[index].cancelled and rows[index].done for index in (2, 5, 0))


def test_a_row_that_reads_can_be_cancelled(lm, settings, exact):
    decoder = Decoder(lm, rows=3, positions=320, stretch=8)
    rows = [decoder.submit(jobs(settings)[0])]
    decoder.step()
    rows += [decoder.submit(jobs(settings)[index]) for index in (5, 6)]
    decoder.step()
    decoder.step()
    assert decoder.active == 2 and rows[1].joined_ns is not None and not rows[1].picked
    decoder.cancel(rows[1])
    decoder.run()
    assert [rows[0].picked, rows[2].picked] == [exact[0], exact[6]]


def test_settings_that_the_device_cannot_sample_by_are_refused(lm, settings):
    decoder = Decoder(lm, rows=1, positions=64)
    for wrong in (replace(settings, top_k=26), replace(settings, win_size=9)):
        with pytest.raises(ValueError, match="this decoder has 25 at most, and 10"):
            decoder.submit(Job([1], [], Sampler(wrong, 6561), 5))
    with pytest.raises(IndexError, match="outside the checkpoint's vocabularies"):
        decoder.submit(Job([640], [], Sampler(settings, 6561), 5))


def test_a_row_whose_probabilities_are_no_numbers_ends_alone(tiny, settings, exact):
    lm = speech_lm.load(tiny)
    lm.body.embed_tokens.weight.data[639] = float("nan")
    decoder = Decoder(lm, rows=3, positions=320, ahead=2)
    bad = decoder.submit(Job([639, 1], [], Sampler(settings, 6561), 20))
    good = decoder.submit(jobs(settings)[2])
    decoder.run()
    assert bad.failed and bad.done and not bad.tokens
    assert not good.failed and good.picked == exact[2]


class Step(torch.nn.Module):
    def __init__(self, batch: Batch, n: int, span: int) -> None:
        super().__init__()
        self.batch, self.n, self.span = batch, n, span

    def forward(self):
        return self.batch.step(self.n, self.span)


class Read(Step):
    def forward(self, given):
        self.batch.read(given, self.span)
        return self.batch.cache.store[:, :1].clone()


def test_torch_export_takes_the_step_and_the_reading(tiny, settings):
    """Strictly and with fixed shapes: no look at a value, nothing made of host data."""
    lm = speech_lm.load(tiny)
    decoder = Decoder(lm, rows=4, positions=128)
    for seed in range(3):
        decoder.submit(job(settings, seed, 9, 4, 60, least=60))
    for _ in range(4):
        decoder.step()
    batch = decoder._batch
    with torch.no_grad():
        exported = torch.export.export(Step(batch, 4, 64), (), strict=True)
        before = batch.state.clone()
        picked, log_probabilities = batch.step(4, 64)
        after = batch.state.clone()
        batch.state.copy_(before)
        module = exported.module()
        again, same = module()
    assert torch.equal(picked[:3], again[:3])
    assert torch.allclose(log_probabilities[:3], same[:3], atol=1e-5)
    moved = dict(module.named_buffers())["batch.state"]
    assert torch.equal(moved[:3], after[:3])
    with torch.no_grad():
        given = torch.tensor([3, 0, 5, *range(8)])
        read = torch.export.export(Read(batch, 4, 64), (given,), strict=True)
    for program in (exported, read):
        names = {str(node.target) for node in program.graph.nodes}
        assert not [name for name in names if "aten.item" in name or "_local_scalar" in name]


class Counting(TorchDispatchMode):
    """The host's requests to the device: launches, and questions that wait for it."""

    FREE = ("view", "slice", "select", "as_strided", "alias", "expand", "permute", "transpose", "unsqueeze", "squeeze")
    FREE += ("detach", "empty", "unbind", "split", "unflatten", "t.", "_reshape_alias", "lift_fresh", "pin_memory")
    ASKS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.", "masked_select", "unique", "item")

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.asks = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        if name.startswith(self.ASKS):
            self.asks.append(name)
        elif not name.startswith(self.FREE):
            self.launches.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def counted(monkeypatch):
    """Decoder steps in which a graph counts as one launch."""
    real, inside = Graphs.__call__, []

    def call(self, key, function, *inputs, state=()):
        mode = Counting.current
        launches = list(mode.launches) if mode else []
        made = real(self, key, function, *inputs, state=state)
        if mode:
            mode.launches[:] = [*launches, f"graph {key}"]
            mode.launches += ["copy of an input"] * len(inputs)
        inside.append(key)
        return made

    monkeypatch.setattr(Graphs, "__call__", call)
    Counting.current = None
    return inside


@pytest.mark.parametrize("rows", [1, 4])
def test_a_decoding_step_is_few_launches_and_waits_for_nothing(lm, settings, counted, rows):
    decoder = Decoder(lm, rows=4, positions=320, ahead=2, recorder=replaying)
    taken: list[Row] = [decoder.submit(job(settings, seed, 9, 4, 200, least=200)) for seed in range(rows)]
    for _ in range(5):
        decoder.step()
    said = [len(row.picked) for row in taken]
    # What `_hear` reads has arrived: an event says so on a GPU. All else of a step is counted.
    heard = decoder._hear
    decoder._hear = lambda ahead: None
    with Counting() as mode:
        Counting.current = mode
        for _ in range(10):
            decoder.step()
        Counting.current = None
    decoder._hear = heard
    assert mode.asks == [], mode.asks
    assert 10 <= len(mode.launches) <= 20 * 10, mode.launches
    assert len(mode.launches) <= 3 * 10, mode.launches
    decoder.step()
    assert [len(row.picked) for row in taken] == [count + 11 for count in said]


def test_the_step_asks_nothing_inside_either(lm, settings):
    decoder = Decoder(lm, rows=2, positions=128)
    decoder.submit(job(settings, 0, 9, 4, 100, least=100))
    decoder.step()
    with torch.inference_mode(), Counting() as mode:
        decoder._batch.step(2, 64)
        decoder._batch.read(torch.tensor([1, 0, 5, *range(8)]), 64)
    assert mode.asks == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_row_goes_on_behind_what_it_said(tiny, settings, dtype, cut):
    """In other company, where half precision rounds otherwise: what it said stays, draws go on where they were."""
    lm = speech_lm.load(tiny, dtype=dtype)
    decoder = Decoder(lm, rows=4, positions=320)
    rows = [decoder.submit(one) for one in jobs(settings)]
    decoder.run()
    for index in (0, 2, 5):
        whole = rows[index].picked
        resumed = Decoder(lm, rows=3, positions=320, stretch=16)
        others = [resumed.submit(job(settings, 90 + seed, 20, 3, 50)) for seed in range(2)]
        resumed.step()
        one = jobs(settings)[index]
        row = resumed.submit(replace(one, said=tuple(whole[:cut])))
        resumed.run()
        assert row.picked[:cut] == whole[:cut] and row.done and all(other.done for other in others)
        assert len(row.picked) <= one.most
        if dtype == torch.float32:
            assert row.picked == whole and row.tokens == rows[index].tokens
            assert row.steps == len(whole) - len(whole[:cut])


def test_a_row_that_had_said_all_says_no_more(lm, settings):
    decoder = Decoder(lm, rows=1, positions=320)
    one = job(settings, 0, 9, 4, 30)
    for said in ((5, 6, 6562), tuple(range(3000, 3030))):
        row = decoder.submit(replace(one, sampler=Sampler(settings, 6561, 0, 5), said=said))
        decoder.run()
        assert row.done and row.picked == list(said) and row.steps == 0 and row.joined_ns is not None
        assert row.tokens == [token for token in said if token < 6561]
