"""All shapes are recorded when a model is loaded, and none later; other shapes are called directly and sound alike."""

import functools
import logging
import threading

import numpy as np
import pytest
import torch

from engines.contract import Mel, MelChunk, Utterance
from engines.cosyvoice3 import decoder, flow, hift, recording, speech_lm
from engines.cosyvoice3.acoustic import CosyVoice3AcousticModel
from engines.cosyvoice3.capture import Graphs
from engines.cosyvoice3.decoder import Job
from engines.cosyvoice3.flow_batches import Limits, bucket, shapes
from engines.cosyvoice3.launcher import Launcher
from engines.cosyvoice3.plan import Phase, Plan
from engines.cosyvoice3.sampling import Sampler
from engines.cosyvoice3.vocoder import CosyVoice3Vocoder
from tests.helpers.cosyvoice3 import distance, random_voice, tiny_checkpoint  # noqa: F401
from tests.helpers.recording import replaying

LONGEST = 192
LIMITS = Limits(rows=3, frames=500, wait_ms=5)


def bucketed() -> Launcher:
    return Launcher(torch.device("cpu"), Graphs("cpu", recorder=replaying), bucketed=True)


class RandomLengths:
    """A planner: a seed is the length of the speech, in one part or two."""

    def __init__(self, sampling, speech_tokens) -> None:
        self._sampling, self._speech_tokens = sampling, speech_tokens

    def plan(self, utterance, voice):
        dice = np.random.default_rng(utterance.seed)
        jobs = [
            Job(
                dice.integers(0, 600, int(dice.integers(4, 30))).tolist(),
                voice.arrays["speech_tokens"].tolist(),
                Sampler(self._sampling, self._speech_tokens, utterance.seed, least=count),
                most=count,
            )
            for count in dice.integers(10, 45, int(dice.integers(1, 3))).tolist()
        ]
        return Plan(jobs, voice, 1.0, Phase("TEXT_FRONTEND", 0, 0))


@pytest.fixture(scope="module")
def model(tiny):
    """An acoustic model that records as on a GPU, with both lanes of the flow."""
    lm, mel_maker = speech_lm.load(tiny), flow.load(tiny)
    mel_maker.prepare(bucketed())
    mel_maker._express = bucketed()
    planner = RandomLengths(tiny.numbers.llm.sampling, lm.speech_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "Graphs", lambda device, priority, recorder: Graphs(device, recorder=replaying))
        made = CosyVoice3AcousticModel(lm, mel_maker, planner, 4, 256, limits=LIMITS, beside=True, longest=LONGEST)
    made.record()
    return made


def given(model, tickets) -> dict:
    found: dict = {ticket: [] for ticket in tickets}
    while any(not results or isinstance(results[-1], MelChunk) and not results[-1].last for results in found.values()):
        for ticket, result in model.step():
            assert isinstance(result, Mel | MelChunk), result
            found[ticket].append(result)
    return found


def test_no_shape_is_recorded_after_loading_over_random_lengths(model, tiny):
    recorded, missed = model.recordings, model.direct
    assert recorded == len(model.decoder.graphs) + sum(len(each.graphs) for each in model.flow.launchers) > 30
    dice, exact = np.random.default_rng(0), flow.load(tiny)
    for turn in range(4):
        voices = [random_voice(int(dice.integers(10, 50)), seed) for seed in range(6)]
        tickets = {
            model.submit(Utterance("", "zh-CN", seed=6 * turn + seed), voice, stream=bool(dice.integers(0, 2))): voice
            for seed, voice in enumerate(voices)
        }
        rows = {ticket: [part.row for part in ticket.parts] for ticket in tickets}
        found = given(model, tickets)
        assert model.recordings == recorded and model.direct == missed
        if turn:
            continue
        for ticket, results in found.items():
            for index, row in enumerate(rows[ticket]):
                last = [each for each in results if not ticket.stream or each.part == index][-1]
                mels = (
                    last.arrays["mel"]
                    if ticket.stream
                    else np.split(last.arrays["mel"], last.arrays["parts"][:1], 1)[index]
                )
                (alone,) = exact([ticket.plan.row(row.tokens, chunked=ticket.stream)])
                assert distance(mels, alone) < 1e-5


def test_a_longer_row_is_called_directly_and_sounds_as_alone(model, tiny):
    recorded, missed, voice = model.recordings, model.direct, random_voice(110, 1)
    ticket = model.submit(Utterance("", "zh-CN", seed=1), voice)
    rows = [part.row for part in ticket.parts]
    ((mel,),) = given(model, [ticket]).values()
    assert model.direct > missed and model.recordings == recorded
    expected = torch.cat([flow.load(tiny)([ticket.plan.row(row.tokens)])[0] for row in rows], 1)
    assert distance(mel.arrays["mel"], expected) < 1e-5


def test_the_vocoder_records_nothing_after_loading(tiny, monkeypatch):
    real = hift.load

    def load(*arguments):
        network = real(*arguments)
        network.prepare(bucketed())
        return network

    exact = CosyVoice3Vocoder(tiny)
    monkeypatch.setattr(hift, "load", load)
    vocoder = CosyVoice3Vocoder(tiny, longest=64)
    vocoder._limits = LIMITS  # on a CPU it takes rows one by one
    vocoder._network._launcher.graphs.closed = False
    vocoder._record(128, 60)
    recorded, missed, dice = vocoder.recordings, vocoder.direct, np.random.default_rng(0)
    for turn in range(3):
        frames = [dice.integers(1, 128, int(dice.integers(1, 3))).tolist() for _ in range(5)]
        mels = [
            Mel({"mel": dice.standard_normal((80, sum(each))).astype(np.float32), "parts": np.array(each)}, 1.0)
            for each in frames
        ]
        sounds = vocoder.vocode(mels)
        if not turn:
            for one, other in zip(sounds, exact.vocode(mels), strict=True):
                assert distance(one, other) < 1e-5
        chunks = [
            (MelChunk(mel.arrays, 1.0, 0, bool(dice.integers(0, 2))), 0)
            for mel in mels
            if len(mel.arrays["parts"]) == 1
        ]
        vocoder.vocode_chunks(chunks)
    assert vocoder.recordings == recorded >= 12 and vocoder.direct == missed


def test_every_batch_within_the_limits_has_a_recorded_shape():
    dice, limits = np.random.default_rng(0), Limits()
    found = shapes(limits, 2_560)
    assert len(found) == len(set(found)) < 200
    assert found[0] == max(found, key=lambda shape: shape[0] * shape[1]) and found[1] == (1, 2_560)
    assert [rows for rows, _ in found[1:]] == sorted(rows for rows, _ in found[1:])
    for _ in range(5_000):
        rows = int(dice.integers(1, 17))
        longest = int(dice.integers(1, 2_561))
        if limits.allow(longest, longest, rows, rows * longest):
            assert bucket(rows, longest) in found


def test_recording_ends_with_its_time_and_the_log_tells(caplog):
    now, done, graphs = [0.0], [], Graphs("cpu", recorder=replaying)

    def work(index: int) -> None:
        done.append(index)
        now[0] += 7.0

    works = [functools.partial(work, index) for index in range(5)]
    with caplog.at_level(logging.INFO):
        assert recording.record("flow", [graphs], works, seconds=20.0, clock=lambda: now[0]) == 0.0
    assert done == [0, 1, 2] and graphs.closed
    assert "flow: recorded 2 of 5 shapes in 14 s" in caplog.text
    assert "flow: recorded 3 of 5 shapes in 21 s, because 20 s are over" in caplog.text
    with caplog.at_level(logging.INFO):
        assert recording.record("flow", [graphs], works, seconds=50.0, clock=lambda: now[0]) == 15.0
    assert "flow: recorded all 5 shapes in 35 s" in caplog.text


def test_recording_ends_where_others_need_the_memory(caplog, monkeypatch):
    graphs = Graphs("cpu", recorder=replaying)
    graphs.device = torch.device("cuda")
    free = iter([50, 50, 9])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (next(free), 100))
    done: list[int] = []
    recording.record("flow", [graphs], [functools.partial(done.append, index) for index in range(5)])
    assert done == [0, 1] and "less than 10% of the device's memory is free" in caplog.text


def test_a_first_chunk_overtakes_the_batch_under_way(model, monkeypatch):
    """While a batch of whole texts is computed, a stream begins and its first chunk comes out."""
    real, held, begun = model.flow.forward, threading.Event(), threading.Event()

    def forward(rows, urgent=False):
        if not urgent:
            begun.set()
            assert held.wait(30)
        return real(rows, urgent)

    monkeypatch.setattr(model.flow, "forward", forward)
    voice = random_voice(20, 1)
    whole = model.submit(Utterance("", "zh-CN", seed=1), voice)
    while not begun.is_set():
        assert model.step() == []
    stream = model.submit(Utterance("", "zh-CN", seed=4), voice, stream=True)
    results = []
    while not results:
        results = model.step()
    assert [ticket for ticket, _ in results] == [stream] and not held.is_set()
    held.set()
    given(model, [whole])
    model.cancel(stream)
