"""Rows of different length share a batch and come out as alone; rows join, leave and are cancelled between steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.cosyvoice3 import flow, hift, noise, speech_lm
from engines.cosyvoice3.decoder import Decoder, Job
from engines.cosyvoice3.flow import FlowRow
from engines.cosyvoice3.flow_batches import FlowBatcher, Limits, batches
from engines.cosyvoice3.sampling import Sampler, SilenceLimit
from tests.helpers.cosyvoice3 import distance, tiny_checkpoint  # noqa: F401


@pytest.fixture(scope="module")
def lm(tiny):
    return speech_lm.load(tiny)


@pytest.fixture(scope="module")
def settings(tiny):
    return tiny.numbers.llm.sampling


def job(settings, seed: int, text: int, prompt: int = 0, most: int = 40, least: int = 5) -> Job:
    random = np.random.default_rng(seed)
    return Job(
        random.integers(0, 500, text).tolist(),
        random.integers(0, 6561, prompt).tolist(),
        Sampler(settings, 6561, seed, least),
        most,
    )


#: text tokens, prompt tokens, most tokens: rows of very different lengths
SHAPES = [(5, 0, 40), (60, 0, 11), (17, 90, 70), (1, 1, 1), (33, 7, 25)]


def jobs(settings) -> list[Job]:
    return [job(settings, seed, *shape) for seed, shape in enumerate(SHAPES)]


def alone(lm, one: Job) -> list[int]:
    decoder = Decoder(lm, rows=1, positions=256)
    row = decoder.submit(one)
    decoder.run()
    return row.tokens


@pytest.mark.parametrize("greedy", [True, False])
def test_rows_say_the_same_alone_and_in_a_full_batch(lm, settings, greedy):
    how = None if greedy else settings
    decoder = Decoder(lm, rows=5, positions=256)
    rows = [decoder.submit(one) for one in jobs(how)]
    decoder.run()
    assert [row.tokens for row in rows] == [alone(lm, one) for one in jobs(how)]
    assert len({row.steps for row in rows}) > 2, "the rows should not all be as long"


class Scripted(Sampler):
    """Says what it is told, and keeps the log-probabilities it was given."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(None, 6561)
        self._tokens, self.heard = tokens, []

    def _pick(self, log_probabilities):
        self.heard.append(log_probabilities.copy())
        return self._tokens[len(self.picked)]


def heard(lm, several: bool) -> list[np.ndarray]:
    """Each row's log-probabilities (steps, 6761), all rows saying given tokens, together or each alone."""
    rows = [
        Job(
            one.text,
            one.prompt_tokens,
            Scripted(np.random.default_rng(9).integers(0, 6561, one.most).tolist()),
            one.most,
        )
        for one in jobs(None)
    ]
    for together in [rows] if several else [[row] for row in rows]:
        decoder = Decoder(lm, rows=len(rows), positions=256)
        for row in together:
            decoder.submit(row)
        decoder.run()
    return [np.stack(row.sampler.heard) for row in rows]


def test_rows_hear_the_same_alone_and_in_a_full_batch(lm):
    for one, other in zip(heard(lm, several=True), heard(lm, several=False), strict=True):
        assert distance(one, other) < 1e-5


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.05), (torch.float16, 0.006)])
def test_the_language_model_in_half_precision_stays_near(tiny, lm, dtype, tolerance):
    """Of the log-probabilities of the same tokens, alone and in a batch; relative to their own spread."""
    half = speech_lm.load(tiny, dtype=dtype)
    alone = heard(half, several=False)
    for one, near, exact in zip(heard(half, several=True), alone, heard(lm, several=False), strict=True):
        assert one.dtype == np.float32
        assert distance(one, exact) < tolerance * exact.std()
        assert distance(one, near) < tolerance * exact.std()


def test_rows_say_the_same_when_they_come_and_go_at_any_step(lm, settings):
    decoder = Decoder(lm, rows=2, positions=256)
    rows = [decoder.submit(one) for one in jobs(settings)[:1]]
    for one in jobs(settings)[1:]:
        for _ in range(3):
            decoder.step()
        rows.append(decoder.submit(one))
    assert decoder.active <= 2
    decoder.run()
    assert [row.tokens for row in rows] == [alone(lm, one) for one in jobs(settings)]


def test_the_seed_decides(lm, settings):
    assert alone(lm, job(settings, 1, 20)) == alone(lm, job(settings, 1, 20))
    same = [Job([1, 2, 3], [], Sampler(settings, 6561, seed, 5), 20) for seed in (1, 2)]
    assert alone(lm, same[0]) != alone(lm, same[1])


def test_who_finds_no_row_waits_and_times_tell(lm, settings):
    now = iter(range(1000, 10_000))
    decoder = Decoder(lm, rows=1, positions=128, clock=lambda: next(now))
    first, second = (decoder.submit(job(settings, seed, 5, most=6, least=6)) for seed in (0, 1))
    assert (decoder.active, decoder.waiting) == (0, 2)
    decoder.step()
    assert (decoder.active, decoder.waiting) == (1, 1) and second.joined_ns is None
    decoder.run()
    assert first.submitted_ns < second.submitted_ns < first.joined_ns < first.ended_ns < second.joined_ns
    assert first.steps == first.batch_sizes == 6 and first.done and second.done


def test_a_cancelled_row_is_free_at_once_and_disturbs_nobody(lm, settings):
    decoder = Decoder(lm, rows=2, positions=256)
    rows = [decoder.submit(one) for one in jobs(settings)[:3]]
    decoder.step()
    decoder.step()
    decoder.cancel(rows[0])  # row 1 moves into its place
    assert rows[0].cancelled and rows[0].done and (decoder.active, decoder.waiting) == (1, 1)
    decoder.step()
    assert decoder.active == 2, "who waited has joined"
    decoder.cancel(rows[0])
    decoder.run()
    assert [row.tokens for row in rows[1:]] == [alone(lm, one) for one in jobs(settings)[1:3]]


def test_a_waiting_job_can_be_cancelled(lm, settings):
    decoder = Decoder(lm, rows=1, positions=128)
    rows = [decoder.submit(job(settings, seed, 5, most=4)) for seed in (0, 1)]
    decoder.step()
    decoder.cancel(rows[1])
    decoder.run()
    assert rows[1].tokens == [] and rows[1].joined_ns is None and rows[1].done and not rows[0].cancelled


def test_the_cache_is_allocated_once_and_to_the_stated_size(lm, settings):
    decoder = Decoder(lm, rows=3, positions=100)
    size = lm.body.size
    assert decoder.cache.bytes == 2 * size.layers * size.kv_heads * size.head_dim * 4 * 3 * 100
    where = decoder.cache.keys.data_ptr()
    for seed in range(6):
        decoder.submit(job(settings, seed, 30, most=20))
    decoder.run()
    assert decoder.cache.keys.data_ptr() == where


def test_a_job_uses_a_row_to_its_last_position_and_one_too_long_is_refused(lm, settings):
    fits = job(settings, 0, 10, prompt=9, most=30, least=30)
    decoder = Decoder(lm, rows=1, positions=fits.positions)
    row = decoder.submit(fits)
    decoder.run()
    assert len(row.job.sampler.picked) == 30 and row._position == fits.positions
    with pytest.raises(ValueError, match=f"may need {fits.positions + 1} cache positions and a row has"):
        decoder.submit(job(settings, 0, 10, prompt=9, most=31))
    with pytest.raises(ValueError, match="at least one token"):
        decoder.submit(job(settings, 0, 10, most=0))


def test_no_control_token_before_the_least_length(settings):
    eager = np.full(6761, -20.0, np.float32)
    eager[6562] = 0.0
    sampler = Sampler(settings, 6561, seed=0, least=3)
    picked = [sampler.pick(eager.copy()) for _ in range(4)]
    assert all(token < 6561 for token in picked[:3]) and picked[3] == 6562
    assert Sampler(settings, 6561, least=3, parity=True).pick(eager.copy()) == 6562, "what the official code does"


def test_a_token_just_said_is_not_said_again_at_once(settings):
    sure = np.full(6761, -9.0, np.float32)
    sure[7] = 0.0
    sampler = Sampler(settings, 6561, seed=0)
    picked = [sampler.pick(sure.copy()) for _ in range(13)]
    assert picked[0] == 7 and 7 not in picked[1:11] and picked[11] == 7


def test_long_silences_are_shortened_to_five():
    limit = SilenceLimit()
    heard = [token for token in [9, *[1, 2, 28] * 4, 9, 1, 1] if limit.keeps(token)]
    assert heard == [9, 1, 2, 28, 1, 2, 9, 1, 1]


def rows(tokens: list[int], prompts: list[int]) -> list[FlowRow]:
    random = np.random.default_rng(5)
    return [
        FlowRow(
            torch.from_numpy(random.integers(0, 6561, count)),
            torch.from_numpy(random.integers(0, 6561, prompt)),
            torch.from_numpy(random.standard_normal((2 * prompt, 80)).astype(np.float32)),
            torch.from_numpy(random.standard_normal(192).astype(np.float32)),
        )
        for count, prompt in zip(tokens, prompts, strict=True)
    ]


@pytest.mark.parametrize("chunked, final", [(False, True), (True, True), (True, False)])
def test_flow_rows_come_out_as_alone(tiny, chunked, final):
    network = flow.load(tiny)
    several = [replace(row, chunked=chunked, final=final) for row in rows([4, 60, 33, 60], [50, 3, 20, 0])]
    for one, mel in zip(several, network(several), strict=True):
        assert mel.shape == (80, 2 * (len(one.tokens) - (0 if final else 3)))
        assert distance(mel, network([one])[0]) < 1e-5


def test_flow_rows_of_every_kind_share_a_batch(tiny):
    network = flow.load(tiny)
    kinds = [(False, True), (True, True), (True, False), (False, True), (True, False)]
    several = [
        replace(row, chunked=chunked, final=final)
        for row, (chunked, final) in zip(rows([60, 60, 60, 4, 28], [50, 50, 50, 3, 47]), kinds, strict=True)
    ]
    together = network(several)
    for one, mel in zip(several, together, strict=True):
        assert distance(mel, network([one])[0]) < 1e-5
    like = network([replace(several[0], chunked=chunked, final=final) for chunked, final in kinds[:3]])
    assert distance(like[0], like[1]) > 1e-3 < distance(like[1][:, :114], like[2]), "the kinds should differ"


@pytest.mark.parametrize("final", [True, False])
def test_vocoder_rows_come_out_as_alone_to_their_last_sample(tiny, final):
    network, excitation = hift.load(tiny), noise.Excitation(tiny.numbers)
    mels = [row.prompt_mel.T for row in rows([1] * 4, [60, 8, 25, 5])]
    for mel, sound in zip(mels, network(mels, excitation, final), strict=True):
        assert len(sound) == 480 * (mel.shape[1] - (0 if final else network.held_back))
        assert distance(sound, network([mel], excitation, final)[0]) < 1e-5
        assert sound.abs().max() > 1e-3


def test_what_is_too_long_or_too_short_is_refused(tiny):
    with pytest.raises(ValueError, match="320 s together"):
        flow.load(tiny)(rows([8000], [0]))
    network, excitation = hift.load(tiny), noise.Excitation(tiny.numbers)
    with pytest.raises(ValueError, match="8 frames is too short; the vocoder needs 9"):
        network([torch.zeros(80, 8)], excitation, final=False)
    with pytest.raises(ValueError, match="0 frames"):
        network([torch.zeros(80, 0)], excitation)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_stays_near(tiny, dtype, tolerance):
    """Relative to the mel's own spread, and the batch as the single row within the same."""
    several = rows([30, 12], [20, 9])
    exact, half = flow.load(tiny), flow.load(tiny, dtype=dtype)
    together = half(several)
    for one, mel in zip(several, together, strict=True):
        reference = exact([one])[0]
        assert mel.dtype == torch.float32
        assert distance(mel, reference) < tolerance * float(reference.std())
        assert distance(mel, half([one])[0]) < tolerance * float(reference.std())


def test_flow_batches_keep_every_limit_and_lose_no_row():
    limits = Limits(rows=4, frames=2000, gap=200, padding=0.2)
    lengths = np.random.default_rng(0).integers(50, 1500, 60).tolist() + [5000, 100, 100, 100, 100, 100]
    made = batches(lengths, limits)
    assert sorted(index for members in made for index in members) == list(range(len(lengths)))
    for members in made:
        sizes = [lengths[index] for index in members]
        if len(sizes) > 1:
            padded = max(sizes) * len(sizes)
            assert len(sizes) <= 4 and padded <= 2000 and max(sizes) - min(sizes) <= 200
            assert padded - sum(sizes) <= 0.2 * padded
    assert len(made) < 45 and [len(lengths) - 6] in made, "some share a batch, and the longest is alone"


def test_the_flow_batcher_waits_for_company_but_not_for_long():
    now = [0.0]
    batcher = FlowBatcher(Limits(rows=3, wait_ms=30), clock=lambda: now[0])
    assert batcher.take() == [] and batcher.due_in() is None
    batcher.add("a", 300)
    assert batcher.take() == [] and batcher.due_in() == pytest.approx(0.03)
    now[0] = 0.02
    batcher.add("b", 310)
    assert batcher.take() == [] and batcher.due_in() == pytest.approx(0.01)
    now[0] = 0.03
    assert batcher.take() == ["a", "b"] and len(batcher) == 0


def test_the_flow_batcher_starts_when_full_when_nobody_else_comes_or_when_lengths_part():
    batcher = FlowBatcher(Limits(rows=2), clock=lambda: 0.0)
    for name in "abc":
        batcher.add(name, 300)
    assert batcher.take() == ["a", "b"] and batcher.take() == []
    assert batcher.take(idle=True) == ["c"]
    batcher.add("short", 100)
    batcher.add("long", 1000)
    assert batcher.take() == ["short"], "the oldest goes first, for it gains nothing by waiting on this neighbour"
    batcher.remove("long")
    assert len(batcher) == 0 and batcher.take(idle=True) == []
