"""An utterance goes on behind what it has said; and the flow computes beside the language model, in a thread."""

import threading
import time

import pytest
import torch

from engines.contract import Mel, MelChunk, Utterance
from engines.cosyvoice3 import flow, speech_lm
from engines.cosyvoice3.acoustic import CosyVoice3AcousticModel
from engines.cosyvoice3.finite import NotFinite
from engines.cosyvoice3.plan import Planner
from engines.cosyvoice3.tokenizer import TextTokenizer
from speech.errors import InternalError
from tests.helpers.cosyvoice3 import distance, random_voice, tiny_checkpoint  # noqa: F401

LONG = "好，" * 9
TWO_PARTS = "好，" * 50
CLIP = 40


def model(tiny, dtype=torch.float32, **settings) -> CosyVoice3AcousticModel:
    lm = speech_lm.load(tiny, dtype=dtype)
    planner = Planner(TextTokenizer(tiny), tiny.numbers.llm.sampling, lm.speech_tokens, settings.get("parity", False))
    settings = {"rows": 6, "positions": 6000, **settings}
    return CosyVoice3AcousticModel(lm, flow.load(tiny, dtype=dtype), planner, **settings)


@pytest.fixture(scope="module")
def exact(tiny):
    return model(tiny)


@pytest.fixture(scope="module")
def voice():
    return random_voice(CLIP, seed=4)


def utterance(text: str = LONG, seed: int = 0, **more) -> Utterance:
    return Utterance(text, "zh-CN", seed=seed, **more)


def given(acoustic, ticket) -> list:
    found = []
    while not found or isinstance(found[-1], MelChunk) and not found[-1].last:
        found += [result for each, result in acoustic.step() if each is ticket]
    return found


@pytest.mark.parametrize("text, steps", [(LONG, 1), (LONG, 50), (TWO_PARTS, 120)])
def test_a_lost_utterance_goes_on_and_ends_as_it_would_have(exact, voice, text, steps):
    (whole,) = exact.generate([(utterance(text, seed=3), voice)])
    lost = exact.submit(utterance(text, seed=3), voice)
    for _ in range(steps):
        exact.step()
    said = lost.said
    assert [len(part) for part in said] == [steps] * len(said)
    exact.cancel(lost)
    assert lost.said == ()
    resumed = exact.submit(utterance(text, seed=3), voice, said=said)
    (mel,) = given(exact, resumed)
    assert isinstance(mel, Mel) and distance(mel.arrays["mel"], whole.arrays["mel"]) < 1e-5
    assert mel.phases[1].tags["lm.steps"] == whole.phases[1].tags["lm.steps"] - steps * len(said)


def test_a_stream_in_half_precision_continues_the_same_speech_on_another_replica(tiny, voice):
    """bfloat16, in other company: what was handed out stays, whatever the seed alone would say there."""
    one, other = model(tiny, torch.bfloat16), model(tiny, torch.bfloat16)
    for seed in range(4):
        ticket = one.submit(utterance(seed=seed), voice, stream=True)
        first = None
        while first is None:
            first = next((chunk for each, chunk in one.step() if each is ticket), None)
        said = first.said
        one.cancel(ticket)
        company = [other.submit(utterance(seed=50 + each), voice) for each in range(3)]
        resumed = other.submit(utterance(seed=seed), voice, stream=True, said=said)
        row = resumed.parts[0].row
        chunks = given(other, resumed)
        for each in company:
            other.cancel(each)
        (before,) = said
        assert tuple(row.picked[: len(before)]) == before and chunks[-1].last
        assert chunks[-1].reaches > first.reaches and chunks[-1].said[0] == tuple(row.picked)
        frames = first.arrays["mel"].shape[1]
        made = first.arrays["mel"]
        assert distance(chunks[-1].arrays["mel"][:, :frames], made) < 0.05 * made.std()


def test_what_was_said_must_be_of_the_same_text_and_not_of_the_official_sampler(tiny, exact, voice):
    assert isinstance(exact.submit(utterance(), voice, said=((1,), (2,))), InternalError)
    assert isinstance(model(tiny, parity=True).submit(utterance(), voice, said=((1, 2),)), InternalError)
    assert exact.decoding == exact.waiting == 0


def test_the_official_sampler_hands_out_no_tokens_that_it_could_not_go_on_after(tiny, voice):
    official = model(tiny, parity=True)
    ticket = official.submit(utterance("你好。"), voice, stream=True)
    official.step()
    assert ticket.joined_ns is not None and ticket.said == ()
    assert given(official, ticket)[-1].said == ()


def test_an_utterance_that_had_said_all_is_made_of_that(exact, voice):
    said = (tuple(range(3000, 3040)) + (6562,),)
    (mel,) = given(exact, exact.submit(utterance(), voice, said=said))
    assert mel.arrays["mel"].shape == (80, 80) and mel.phases[1].tags["lm.steps"] == 0


def test_a_language_model_that_gives_no_numbers_is_an_error_of_its_request_alone(tiny, exact, voice):
    broken = model(tiny)
    ids = broken.planner.plan(utterance("八。"), voice).jobs[0].text
    fine = broken.planner.plan(utterance(LONG), voice).jobs[0].text
    bad = next(each for each in ids if each not in fine)
    broken._lm.body.embed_tokens.weight.data[bad] = float("nan")
    good, none = broken.submit(utterance(seed=3), voice), broken.submit(utterance("八。"), voice)
    found = {}
    while len(found) < 2:
        found |= dict(broken.step())
    assert isinstance(found[none], NotFinite) and "llm.pt" in found[none].message
    (alone,) = exact.generate([(utterance(seed=3), voice)])
    assert distance(found[good].arrays["mel"], alone.arrays["mel"]) < 1e-5


class Slow:
    """A flow that computes when it is told to."""

    def __init__(self, acoustic, monkeypatch) -> None:
        self.go, self.began, self.rows = threading.Event(), threading.Event(), []
        real = acoustic.flow.forward

        def forward(rows):
            self.rows.append(len(rows))
            self.began.set()
            assert self.go.wait(30)
            return real(rows)

        monkeypatch.setattr(acoustic.flow, "forward", forward)


def test_steps_go_on_while_the_flow_computes_beside(tiny, exact, voice, monkeypatch):
    jobs = [(utterance("你好。", seed=1), voice), (utterance(seed=2), voice), (utterance(seed=5), voice)]
    alone = [exact.generate([job])[0] for job in jobs]
    beside = model(tiny, beside=True)
    slow = Slow(beside, monkeypatch)
    tickets = [beside.submit(*job) for job in jobs[:2]]
    while not slow.began.is_set():
        assert beside.step() == []
    before = len(tickets[1].said[0])
    tickets.append(beside.submit(*jobs[2]))
    for _ in range(10):
        assert beside.step() == []
    assert len(tickets[1].said[0]) == before + 10 and len(tickets[2].said[0]) >= 8, "both go on"
    slow.go.set()
    found = {}
    while len(found) < 3:
        found |= dict(beside.step())
    for ticket, mel in zip(tickets, alone, strict=True):
        assert distance(found[ticket].arrays["mel"], mel.arrays["mel"]) < 1e-5
    assert beside.step() == []


def test_who_is_cancelled_while_the_flow_computes_gets_nothing_and_keeps_nobody(tiny, exact, voice, monkeypatch):
    beside = model(tiny, beside=True)
    slow = Slow(beside, monkeypatch)
    gone = beside.submit(utterance("你好。", seed=1), voice)
    while not slow.began.is_set():
        beside.step()
    beside.cancel(gone)
    stays = beside.submit(utterance("你好。", seed=2), voice)
    slow.go.set()
    (mel,) = given(beside, stays)
    assert isinstance(mel, Mel) and gone.batch_id is None
    assert distance(mel.arrays["mel"], exact.generate([(utterance("你好。", seed=2), voice)])[0].arrays["mel"]) < 1e-5


def test_a_flow_that_fails_beside_is_told_by_request(tiny, exact, voice, monkeypatch):
    beside = model(tiny, beside=True)
    real = beside.flow.forward

    def forward(rows):
        if any(len(row.tokens) > 60 for row in rows):
            raise RuntimeError("no memory for this")
        return real(rows)

    monkeypatch.setattr(beside.flow, "forward", forward)
    said = tuple(range(3000, 3100))
    bad = beside.submit(utterance(), voice, said=((*said, 6562),))
    good = beside.submit(utterance(), voice, said=((*said[:50], 6562),))
    found = {}
    while len(found) < 2:
        found |= dict(beside.step())
    assert isinstance(found[bad], InternalError) and isinstance(found[good], Mel)


def test_a_step_with_nothing_but_the_flow_waits_a_little_and_not_for_long(tiny, voice, monkeypatch):
    beside = model(tiny, beside=True)
    slow = Slow(beside, monkeypatch)
    ticket = beside.submit(utterance(), voice, said=((3000, 3001, 3002, 6562),))
    while not slow.began.is_set():
        beside.step()
    start = time.perf_counter()
    for _ in range(10):
        assert beside.step() == []
    assert 0.01 < time.perf_counter() - start < 5, "neither spinning nor stuck"
    slow.go.set()
    assert isinstance(given(beside, ticket)[0], Mel)
