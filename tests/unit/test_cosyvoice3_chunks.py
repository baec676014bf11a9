"""Streams of the CosyVoice3 engine: what they sound like, in what order they come, who waits for whom, how they end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.contract import Mel, MelChunk, StreamingVocoder, Utterance, create
from engines.cosyvoice3.chunks import ChunkPlan
from engines.cosyvoice3.flow_batches import FlowBatcher, Limits
from engines.cosyvoice3.sampling import Sampler, SilenceLimit
from engines.cosyvoice3.streaming import SpeechStream
from speech.errors import InternalError, SpeechError
from tests.helpers.cosyvoice3 import distance, random_voice, tiny_checkpoint  # noqa: F401

LONG, SHORT = "好，" * 9, "你好。"
CLIP = 40  #: speech tokens; the first chunk is filled up by 10


@pytest.fixture(scope="module")
def engine(tiny):
    return create("cosyvoice3", {"model_dir": str(tiny.path), "lm_rows": 9, "lm_positions": 2000, "flow_rows": 8})


@pytest.fixture(scope="module")
def acoustic(engine):
    return engine.load_acoustic_model()


@pytest.fixture(scope="module")
def vocoder(engine):
    return engine.load_vocoder()


@pytest.fixture(scope="module")
def voice():
    return random_voice(CLIP, seed=4)


def utterance(text: str = LONG, seed: int = 0, **more) -> Utterance:
    return Utterance(text, "zh-CN", seed=seed, **more)


def given(acoustic, *tickets) -> dict:
    """All that the tickets give, in order, until each is finished."""
    found = {ticket: [] for ticket in tickets}
    while any(not results or isinstance(results[-1], MelChunk) and not results[-1].last for results in found.values()):
        for ticket, result in acoustic.step():
            found[ticket].append(result)
    return found


def sound(vocoder, chunks: list[MelChunk]) -> list[np.ndarray]:
    """Each part's audio, given out chunk by chunk."""
    parts: list[list[np.ndarray]] = []
    for chunk in chunks:
        if chunk.part == len(parts):
            parts.append([])
        (audio,) = vocoder.vocode_chunks([(chunk, sum(map(len, parts[chunk.part])))])
        parts[chunk.part].append(audio)
    return [np.concatenate(part) for part in parts]


def said_as(acoustic, monkeypatch, *scripts: list[int]) -> None:
    """Each part of the next utterances says the tokens of its script, and ends."""
    plan = acoustic.planner.plan

    class Scripted(Sampler):
        def __init__(self, script: list[int]) -> None:
            super().__init__(None, 6561)
            self._script, self.on_host = script, True

        def _pick(self, _) -> int:
            return (self._script + [6562])[len(self.picked)]

    def planned(*arguments):
        made = plan(*arguments)
        made.jobs[:] = [replace(made.jobs[0], sampler=Scripted(script), most=len(script) + 1) for script in scripts]
        return made

    monkeypatch.setattr(acoustic.planner, "plan", planned)


def tokens(count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(3000, 6561, count).tolist()


def test_chunks_grow_and_end_where_the_attention_has_a_border():
    plan, other = ChunkPlan(prompt=40, look_ahead=3), ChunkPlan(prompt=50, look_ahead=3)
    wanted = []
    for _ in range(5):
        wanted.append(plan.wanted)
        plan.advance()
    assert wanted == [38, 88, 188, 288, 388] and all((count - 3 + 40) % 25 == 0 for count in wanted)
    assert other.wanted == 28, "what one stream has come to is not another's"


def test_a_first_chunk_may_be_shorter_and_ends_at_a_border_all_the_same():
    for prompt in range(200, 260):
        plan, usual = ChunkPlan(prompt, look_ahead=3, least=10), ChunkPlan(prompt, look_ahead=3)
        assert 10 <= plan.wanted - 3 < 35 and 25 <= usual.wanted - 3 < 50 and (prompt + plan.wanted - 3) % 25 == 0
        assert plan.wanted <= usual.wanted


def test_who_comes_late_to_several_chunks_takes_them_as_one():
    plan = ChunkPlan(prompt=50, look_ahead=3)
    assert plan.reached(27) is None and plan.reached(28) == 28 and plan.reached(28) is None
    assert plan.reached(300) == 278 and plan.wanted == 378


def test_the_first_chunk_of_a_stream_waits_for_nobody_and_holds_up_nobody_for_long():
    now = [0.0]
    batcher = FlowBatcher(Limits(rows=3, wait_ms=30), clock=lambda: now[0])
    batcher.add("whole", 300)
    batcher.add("first", 300, first=True)
    batcher.add("first too", 310, first=True)
    assert batcher.take() == ["first", "first too"], "at once, and with no other company"
    assert batcher.take() == [] and batcher.due_in() == pytest.approx(0.03)
    now[0] = 0.03
    for name in "abcd":
        batcher.add(name, 300, first=True)
    assert batcher.take() == ["whole", "a", "b"], "its time is up, and it was overtaken once"
    assert batcher.take() == ["c", "d"] and batcher.take() == []


def test_rows_are_taken_in_the_order_of_their_deadlines():
    now = [0.0]
    batcher = FlowBatcher(Limits(rows=2, wait_ms=30), clock=lambda: now[0])
    for row, deadline in (("late", 0.9), ("soon", 0.2), ("whole", None), ("sooner", 0.02)):
        batcher.add(row, 300, deadline=deadline)
    now[0] = 0.03
    assert [sorted(batcher.take()) for _ in range(2)] == [["sooner", "whole"], ["late", "soon"]]


def test_rows_whose_deadline_is_near_can_leave_for_another_batcher():
    now = [0.0]
    batcher = FlowBatcher(Limits(wait_ms=30), clock=lambda: now[0])
    batcher.add("whole", 300)
    for row, deadline in (("late", 0.9), ("soon", 0.2)):
        batcher.add(row, 310, deadline=deadline)
    assert batcher.leave(before=0.5) == [("soon", 310, 0.2)] and len(batcher) == 2
    assert batcher.leave(before=0.5) == [], "a row without a client's deadline stays"


def test_a_later_chunk_waits_until_its_client_has_little_left_and_then_takes_all_that_was_said(
    acoustic, vocoder, voice, monkeypatch
):
    monkeypatch.setattr(acoustic, "_flow_batcher", FlowBatcher(Limits(wait_ms=0)))
    now, script = [0.0], tokens(200)
    said_as(acoustic, monkeypatch, script)
    ticket = acoustic.submit(utterance(), voice, stream=True)
    ticket.lead_s, ticket.urgent_s, ticket.clock = 0.8, 0.3, lambda: now[0]
    chunks, urgent = [], []
    real = acoustic._flow_batcher.add
    monkeypatch.setattr(acoustic._flow_batcher, "add", lambda *given: urgent.append(given[2:]) or real(*given))
    for step in range(150):
        if step == 120:
            now[0] = 0.5  # of 1.4 - 0.16 s
        chunks += [chunk for _, chunk in acoustic.step()]
    # 38 tokens were said at step 38, and 88 at step 88: nothing was made of those before the client needed them.
    assert [chunk.arrays["mel"].shape[1] for chunk in chunks] == [70, 170]
    assert urgent == [(True, None), (False, pytest.approx(1.24))]
    assert ticket.heard_until == pytest.approx(1.24 + 2.0) and ticket.left_s == pytest.approx(2.74)
    now[0] = 3.0
    chunks += given(acoustic, ticket)[ticket]
    assert [chunk.arrays["mel"].shape[1] for chunk in chunks] == [70, 170, 370, 400] and chunks[-1].last
    assert urgent[2:] == [(True, pytest.approx(3.24)), (False, pytest.approx(7.24))]
    (alone,) = acoustic.flow([ticket.plan.row(script, chunked=True)])
    assert distance(chunks[-1].arrays["mel"], alone) < 1e-5, "the cuts change nothing"


def test_a_client_that_waited_hears_what_comes_from_then_on(acoustic, voice, monkeypatch):
    monkeypatch.setattr(acoustic, "_flow_batcher", FlowBatcher(Limits(wait_ms=0)))
    now = [0.0]
    said_as(acoustic, monkeypatch, tokens(120))
    ticket = acoustic.submit(utterance(), voice, stream=True)
    ticket.clock = lambda: now[0]
    while not acoustic.step():
        pass
    assert ticket.left_s == pytest.approx(1.24)
    now[0] = 5.0
    assert ticket.left_s == pytest.approx(-3.76)
    while not acoustic.step():
        pass
    assert ticket.left_s == pytest.approx(2.0), "the sound had stopped"
    acoustic.cancel(ticket)


def test_a_stream_sounds_as_in_one_process_alone_and_among_others(acoustic, vocoder, voice):
    ticket = acoustic.submit(utterance(seed=1), voice, stream=True)
    row = ticket.parts[0].row
    chunks = given(acoustic, ticket)[ticket]
    assert len(chunks) > 1 and len(row.tokens) > 60
    voiced = ticket.plan.row([])
    reference = SpeechStream(acoustic.flow, vocoder._network, vocoder._noise, voiced)
    heard = [audio for token in row.tokens for audio in reference.add([token])] + [reference.finish()]
    (alone,) = sound(vocoder, chunks)
    assert np.abs(alone).max() > 1e-3 and distance(alone, torch.cat(heard)) < 1e-5

    others = [
        acoustic.submit(utterance(text, seed=other), voice, stream=streamed)
        for other, (text, streamed) in enumerate([(LONG, True), (SHORT, True), (LONG, False), (SHORT, False)] * 2)
    ]
    again = acoustic.submit(utterance(seed=1), voice, stream=True)
    row_again = again.parts[0].row
    found = given(acoustic, again, *others)
    assert row_again.tokens == row.tokens and again.batch_size > 1
    assert max(phase.tags["batch.size"] for phase in found[again][-1].phases[2:]) > 1
    assert distance(found[again][-1].arrays["mel"], chunks[-1].arrays["mel"]) < 1e-5
    assert distance(sound(vocoder, found[again])[0], alone) < 1e-5
    for other in others:
        assert isinstance(found[other][-1], MelChunk if other.stream else Mel)


def test_the_official_last_chunk_is_as_in_one_process(acoustic, vocoder, voice, monkeypatch):
    said_as(acoustic, monkeypatch, script := tokens(100))
    chunks = {}
    for parity in (False, True):
        monkeypatch.setattr(acoustic, "_parity", parity)
        ticket = acoustic.submit(utterance(), voice, stream=True)
        row = ticket.plan.row([])
        chunks[parity] = given(acoustic, ticket)[ticket]
    reference = SpeechStream(acoustic.flow, vocoder._network, vocoder._noise, row, parity=True)
    heard = torch.cat([*reference.add(script), reference.finish()])
    assert distance(sound(vocoder, chunks[True])[0], heard) < 1e-5
    ours, official = (chunks[parity][-1].arrays["mel"] for parity in (False, True))
    assert distance(ours[:, :170], official[:, :170]) < 1e-5 and distance(ours, official) > 1e-4


def test_parts_come_in_order_and_what_was_given_stays(acoustic, voice, monkeypatch):
    """The second part is ready long before the first, the third long after."""
    monkeypatch.setattr(acoustic, "_flow_batcher", FlowBatcher(Limits(wait_ms=0)))
    scripts = tokens(150, 1), tokens(20, 2), tokens(250, 3)
    said_as(acoustic, monkeypatch, *scripts)
    ticket = acoustic.submit(utterance(), voice, stream=True)
    chunks = given(acoustic, ticket)[ticket]
    assert [(chunk.part, chunk.final, chunk.last) for chunk in chunks] == [
        (0, False, False),
        (0, False, False),
        (0, True, False),
        (1, True, False),
        (2, False, False),
        (2, False, False),
        (2, True, True),
    ]
    # When its turn comes, the third has said enough for two chunks: they are made as one.
    assert [chunk.arrays["mel"].shape[1] for chunk in chunks] == [70, 170, 300, 40, 170, 370, 500]
    for before, after in zip(chunks, chunks[1:], strict=False):
        if before.part == after.part:
            assert np.array_equal(before.arrays["mel"], after.arrays["mel"][:, : before.arrays["mel"].shape[1]])
    for chunk in chunks:
        assert chunk.seconds == chunk.arrays["mel"].shape[1] / 50
        assert chunk.arrays["parts"].tolist() == [chunk.arrays["mel"].shape[1]]
    for part, script in enumerate(scripts):
        whole = [chunk for chunk in chunks if chunk.part == part][-1]
        (reference,) = acoustic.flow([ticket.plan.row(script, chunked=True)])
        assert distance(whole.arrays["mel"], reference) < 1e-5


def test_phases_come_with_the_last_chunk_and_tell_of_every_flow_batch(acoustic, voice, monkeypatch):
    said_as(acoustic, monkeypatch, tokens(100, 1), tokens(120, 2))
    ticket = acoustic.submit(utterance(), voice, stream=True)
    batches, chunks = [], []
    while not chunks or not chunks[-1].last:
        chunks += [chunk for _, chunk in acoustic.step()]
        batches.append(ticket.batch_id)
    *before, last = chunks
    assert all(chunk.phases == () for chunk in before) and ticket.finished
    front, lm, *flows = last.phases
    assert (front.name, lm.name) == ("TEXT_FRONTEND", "LM_DECODE")
    assert [flow.tags["batch.id"] for flow in flows] == [key for key in dict.fromkeys(batches) if key]
    assert flows[0].start_ns < lm.end_ns < flows[-1].end_ns and ticket.batch_id == flows[-1].tags["batch.id"]
    assert sum(flow.tags["flow.frames"] for flow in flows) == sum(
        chunk.arrays["mel"].shape[1] for chunk in chunks if chunk.final
    )
    assert all(flow.tags["batch.wait_ms"] >= 0 for flow in flows)
    assert flows[0].tags["batch.wait_ms"] < 5, "the first chunk goes at once"


def test_the_flow_is_only_given_what_stays_where_silences_are_shortened(acoustic, voice, monkeypatch):
    script = sum(([1] * 9 + tokens(4, seed) for seed in range(20)), [])
    said_as(acoustic, monkeypatch, script)
    real, rows = acoustic.flow.forward, []
    monkeypatch.setattr(acoustic.flow, "forward", lambda given: rows.extend(given) or real(given))
    ticket = acoustic.submit(utterance(), voice, stream=True)
    row = ticket.parts[0].row
    given(acoustic, ticket)
    limit = SilenceLimit()
    assert row.tokens == [token for token in script if limit.keeps(token)] and len(row.tokens) == 180
    assert [len(each.tokens) for each in rows] == [38, 88, 180]
    assert all(each.tokens.tolist() == row.tokens[: len(each.tokens)] for each in rows)


def test_a_first_chunk_comes_at_the_very_step_while_whole_ones_wait_for_company(acoustic, voice, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(acoustic, "_flow_batcher", FlowBatcher(Limits(rows=8, wait_ms=30), clock=lambda: now[0]))
    said_as(acoustic, monkeypatch, tokens(20))
    waits = acoustic.submit(utterance(), voice)
    said_as(acoustic, monkeypatch, tokens(120))
    streamed = acoustic.submit(utterance(), voice, stream=True)
    for _ in range(37):
        assert acoustic.step() == []
    assert len(acoustic._flow_batcher) == 1, "it would have company if it waited"
    ((ticket, chunk),) = acoustic.step()
    assert ticket is streamed and chunk.arrays["mel"].shape[1] == 70 and len(acoustic._flow_batcher) == 1
    now[0] = 0.03
    assert [ticket for ticket, _ in acoustic.step()] == [waits], "the other's time is up"
    acoustic.cancel(streamed)


def test_at_another_speed_a_part_is_one_chunk_and_sounds_as_if_not_streamed(acoustic, vocoder, voice, monkeypatch):
    said_as(acoustic, monkeypatch, tokens(60, 1), tokens(50, 2))
    fast = utterance(speed=1.25)
    ticket, whole = acoustic.submit(fast, voice, stream=True), acoustic.submit(fast, voice)
    found = given(acoustic, ticket, whole)
    chunks, (mel,) = found[ticket], found[whole]
    assert [(chunk.part, chunk.final) for chunk in chunks] == [(0, True), (1, True)]
    assert distance(np.concatenate([chunk.arrays["mel"] for chunk in chunks], axis=1), mel.arrays["mel"]) < 1e-5
    assert distance(np.concatenate(sound(vocoder, chunks)), vocoder.vocode([mel])[0]) < 1e-5


def test_a_short_text_is_one_chunk_and_the_last(acoustic, vocoder, voice, monkeypatch):
    said_as(acoustic, monkeypatch, tokens(37))
    ticket = acoustic.submit(utterance(), voice, stream=True)
    chunks = given(acoustic, ticket)[ticket]
    assert len(chunks) == 1 and chunks[0].final and chunks[0].last and len(chunks[0].phases) == 3
    assert len(sound(vocoder, chunks)[0]) == 480 * chunks[0].arrays["mel"].shape[1]


def test_a_cancelled_stream_frees_its_rows_at_once(acoustic, voice, monkeypatch):
    said_as(acoustic, monkeypatch, tokens(100, 1), tokens(120, 2))
    ticket = acoustic.submit(utterance(), voice, stream=True)
    said_as(acoustic, monkeypatch, tokens(200, 3))
    other = acoustic.submit(utterance(), voice, stream=True)
    while not [chunk for found, chunk in acoustic.step() if found is ticket]:
        pass
    before = acoustic.decoding
    acoustic._flow_batcher.take = lambda idle: []  # the next chunk stays before the flow
    for _ in range(50):
        acoustic.step()
    del acoustic._flow_batcher.take
    assert (before, acoustic.decoding, len(acoustic._flow_batcher)) == (3, 3, 2)
    acoustic.cancel(ticket)
    acoustic.cancel(ticket)
    assert (acoustic.decoding, len(acoustic._flow_batcher)) == (1, 1)
    chunks = given(acoustic, other)[other]
    assert chunks[-1].last and acoustic.decoding == acoustic.waiting == len(acoustic._flow_batcher) == 0


def test_a_stream_that_fails_in_the_flow_ends_with_the_error_and_takes_nobody_with_it(acoustic, voice, monkeypatch):
    real = acoustic.flow.forward

    def forward(rows):
        if any(len(row.tokens) == 88 for row in rows):
            raise RuntimeError("no memory for this")
        return real(rows)

    said_as(acoustic, monkeypatch, tokens(120))
    monkeypatch.setattr(acoustic.flow, "forward", forward)
    bad, good = acoustic.submit(utterance(), voice, stream=True), acoustic.submit(utterance(), voice)
    found = given(acoustic, bad, good)
    chunk, error = found[bad]
    assert isinstance(chunk, MelChunk) and isinstance(error, InternalError) and isinstance(found[good][0], Mel)
    assert acoustic.step() == [] and acoustic.decoding == len(acoustic._flow_batcher) == 0


def test_a_later_part_that_says_nothing_is_an_error_after_the_chunks_of_the_first(acoustic, voice, monkeypatch):
    said_as(acoustic, monkeypatch, tokens(60), [])
    acoustic.configure(rows=1)
    try:
        ticket = acoustic.submit(utterance(), voice, stream=True)
        *chunks, error = given(acoustic, ticket)[ticket]
    finally:
        acoustic.configure(rows=9)
    assert chunks and not chunks[-1].last and isinstance(error, SpeechError) and error.code == "nothing_said"
    assert acoustic.step() == [] and acoustic.decoding == acoustic.waiting == len(acoustic._flow_batcher) == 0


def part(frames: int, final: bool, seed: int = 0) -> MelChunk:
    mel = np.random.default_rng(seed).standard_normal((80, frames)).astype(np.float32)
    return MelChunk({"mel": mel, "parts": np.array([frames], np.int64)}, frames / 50, 0, final)


def test_the_vocoder_takes_chunks_of_any_stream_in_any_order(vocoder, monkeypatch):
    assert isinstance(vocoder, StreamingVocoder)
    chunks = [
        (part(60, False), 0),
        (part(90, True, 1), 480 * 30),
        (part(70, False, 2), 480 * 62),
        (part(60, True), 0),
        (part(65, False, 3), 480 * 20),
    ]
    singly = [vocoder.vocode_chunks([chunk])[0] for chunk in chunks]
    assert [len(audio) // 480 for audio in singly] == [52, 60, 0, 60, 37]
    assert all(audio.dtype == np.float32 for audio in singly)
    assert distance(singly[0], singly[3][: 480 * 52]) < 1e-6 and np.abs(singly[0]).max() > 1e-3
    monkeypatch.setattr(vocoder, "_limits", Limits())
    real, calls = vocoder._network.launch, []
    monkeypatch.setattr(vocoder._network, "launch", lambda *given: calls.append(len(given[0])) or real(*given))
    for order in ([0, 1, 2, 3, 4], [4, 2, 3, 0, 1]):
        together = vocoder.vocode_chunks([chunks[index] for index in order])
        for index, audio in zip(order, together, strict=True):
            assert distance(audio, singly[index]) < 1e-5
    assert max(calls) == 3, "the unfinished ones share a batch"


def test_a_chunk_too_short_to_sound_gives_no_samples_and_one_that_is_wrong_an_error(vocoder):
    short, least, fine, far, odd, two = vocoder.vocode_chunks(
        [
            (part(8, False), 0),
            (part(9, False), 0),
            (part(3, True), 0),
            (part(20, True), 480 * 20 + 1),
            (replace(part(20, False), arrays={"mel": np.zeros((80, 20), np.float32), "parts": np.array([7])}), 0),
            (replace(part(20, False), arrays={"mel": np.zeros((80, 20), np.float32), "parts": np.array([7, 13])}), 0),
        ]
    )
    assert isinstance(short, np.ndarray) and short.shape == (0,) and short.dtype == np.float32
    assert len(least) == 480 and len(fine) == 480 * 3
    assert all(isinstance(wrong, InternalError) for wrong in (far, odd, two))


def test_the_engine_says_that_it_streams(engine):
    assert engine.capabilities.streaming
