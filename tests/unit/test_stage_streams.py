"""The two streaming stages without a cluster: a mel in chunks from tts-service, each vocoded, and their spans."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest

from deployments.settings import StageConfig
from deployments.stages import base
from deployments.stages.tts import TtsService
from deployments.stages.vocoder import VocoderService
from deployments.wire import MelChunkReply, StreamState
from engines import contract
from engines.contract import Capabilities, ChunkAudio, Mel, MelChunk, Phase
from speech.errors import InternalError
from speech.utterance import Utterance
from speech.words import Timings
from tracing import CallContext

RATE = 24_000


class Ticket:
    joined_ns, batch_size, batch_id = 1, 1, "0" * 16


class AcousticModel:
    """Three chunks of a tenth of a second each; `fails` in place of the third."""

    rows, decoding, waiting = 1, 0, 0

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.ticket: Ticket | None = None
        self.chunks = 0

    def generate(self, jobs):
        return [Mel({"mel": np.zeros((10, 4), np.float32)}, 0.3) for _ in jobs]

    def configure(self, rows=None, wait_ms=None):
        pass

    def submit(self, utterance, voice, stream=False, said=(), beyond=None):
        self.ticket, self.chunks, self.continued = Ticket(), 0, said
        return self.ticket

    def cancel(self, ticket):
        self.ticket = None

    def step(self):
        if self.ticket is None:
            return []
        self.chunks += 1
        if self.chunks == 3 and self.fails:
            return [(self.ticket, self.fails)]
        last = self.chunks == 3
        phases = (Phase("LM_DECODE", 1, 2, {"lm.steps": 3}),) if last else ()
        array = np.zeros((self.chunks, 4), np.float32)
        said = (tuple(range(self.chunks)),)
        return [(self.ticket, MelChunk({"mel": array}, self.chunks / 10, 0, last, last, phases, said))]


class Vocoder:
    def vocode(self, mels):
        return [np.zeros(int(mel.seconds * RATE), np.float32) for mel in mels]

    def vocode_chunks(self, chunks):
        return [np.zeros(int(round(chunk.seconds * RATE)) - given, np.float32) for chunk, given in chunks]


class Engine:
    capabilities = Capabilities("fake", "1", RATE, frozenset(), frozenset(), (), streaming=True)

    def __init__(self) -> None:
        self.model = AcousticModel()

    def load_acoustic_model(self, device="cpu", threads=1):
        return self.model

    def load_vocoder(self, device="cpu", threads=1):
        return Vocoder()


@pytest.fixture
def engine(monkeypatch):
    engine = Engine()
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
    monkeypatch.setattr(base.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(
        base.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here", get_accelerator_ids=dict)
    )
    monkeypatch.setattr(base, "Nodes", lambda: lambda: False)
    monkeypatch.setattr(contract, "create", lambda name, options: engine)
    return engine


def new_call() -> CallContext:
    now = time.time_ns()
    return CallContext(f"00-{'a' * 32}-{'b' * 16}-01", now, now + 30 * 10**9)


async def mel_replies(tts: TtsService, *said) -> list:
    return [reply async for reply in tts.stream(new_call(), Utterance("Hello", "en-US"), {}, *said)]


def test_a_mel_comes_in_chunks_and_its_span_with_the_end(engine):
    *chunks, end = asyncio.run(mel_replies(TtsService(StageConfig(engine="fake"))))
    assert [reply.value.reaches for reply in chunks] == [(0, 0.1, False), (0, 0.2, False), (0, 0.3, True)]
    assert [reply.value.last for reply in chunks] == [False, False, True]
    assert not any(reply.spans for reply in chunks) and end.value is None and end.error is None
    phase, span = sorted(end.spans, key=lambda span: span.kind or "")
    assert (span.name, span.tags["stream.chunks"], span.tags["text.length"]) == ("GENERATE_MEL", 3, 5)
    assert (phase.name, phase.tags) == ("LM_DECODE", {"lm.steps": 3})
    assert {"dequeued", "batch started", "first chunk"} == {text for _, text in span.events}


def test_tokens_go_out_with_each_chunk_and_come_back_in_with_a_stream_to_be_continued(engine):
    tts = TtsService(StageConfig(engine="fake"))
    *chunks, _ = asyncio.run(mel_replies(tts))
    assert [reply.value.said for reply in chunks] == [((0,),), ((0, 1),), ((0, 1, 2),)]
    assert engine.model.continued == ()
    asyncio.run(mel_replies(tts, chunks[1].value.said))
    assert engine.model.continued == ((0, 1),)


def test_a_stream_that_fails_ends_with_its_error_and_names_its_service(engine):
    engine.model.fails = InternalError("it broke")
    *chunks, end = asyncio.run(mel_replies(TtsService(StageConfig(engine="fake"))))
    assert len(chunks) == 2 and end.error.service == "tts-service"
    [span] = end.spans
    assert span.tags["error.type"] == "internal"


def test_each_chunk_gives_the_audio_that_follows_and_the_last_call_makes_one_span(engine):
    async def scenario():
        *chunks, _ = await mel_replies(TtsService(StageConfig(engine="fake")))
        vocoder, state, replies = VocoderService(StageConfig(engine="fake")), StreamState(), []
        for chunk in chunks:
            reply = await vocoder.vocode_chunk(new_call(), chunk.value, state)
            state = reply.value.state
            replies.append(reply)
        return replies

    replies = asyncio.run(scenario())
    assert [len(reply.value.pcm) for reply in replies] == [RATE // 10] * 3
    assert [reply.value.state.given for reply in replies] == [2400, 4800, 0], "a part that is complete starts anew"
    assert [len(reply.spans) for reply in replies] == [0, 0, 1]
    [span] = replies[-1].spans
    assert span.start_ns == replies[0].value.state.started_ns and span.tags["stream.chunks"] == 3


class Divider(Vocoder):
    """Tells with each chunk what the next one has to know; or makes a sound whole at its first chunk."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.told: list = []

    def vocode_chunks(self, chunks):
        ((chunk, given),) = chunks
        self.told.append(None if chunk.kept is None else chunk.kept.tolist())
        samples = np.zeros(RATE if self.whole else round(chunk.seconds * RATE) - given, np.float32)
        return [ChunkAudio(samples, complete=self.whole, kept=np.array([given]), cut_s=0.25)]


#: of three words in a sound of 1.5 s, silence at its edges included
TIMES = Timings(
    np.array([(0, 1), (2, 3), (4, 5)], np.int32),
    np.arange(3, dtype=np.int32),
    np.array([(0.25, 0.5), (0.5, 1.0), (1.0, 1.5)], np.float32),
)


async def divided_replies(vocoder: VocoderService) -> list:
    state, replies = StreamState(), []
    for end in (0.5, 0.75, 1.0):
        chunk = MelChunkReply({}, end, 0, final=end == 1.0, last=end == 1.0, timings=TIMES)
        replies.append(await vocoder.vocode_chunk(new_call(), chunk, state))
        state = replies[-1].value.state
        if replies[-1].value.complete:
            break
    return replies


def test_what_the_engine_keeps_of_a_sound_comes_back_with_its_next_part(engine):
    divider = Divider(whole=False)
    engine.load_vocoder = lambda device, threads: divider
    replies = asyncio.run(divided_replies(VocoderService(StageConfig(engine="fake"))))
    assert divider.told == [None, [0], [12_000]]
    assert [len(reply.value.pcm) for reply in replies] == [12_000, 6_000, 6_000]
    assert [len(reply.spans) for reply in replies] == [0, 0, 1] and replies[-1].value.state.kept is None


def test_a_sound_that_comes_whole_with_its_first_part_ends_its_span_there(engine):
    engine.load_vocoder = lambda device, threads: Divider(whole=True)
    (reply,) = asyncio.run(divided_replies(VocoderService(StageConfig(engine="fake"))))
    assert len(reply.value.pcm) == RATE and reply.value.complete
    state, [span] = reply.value.state, reply.spans
    assert state.reached > (0, 1.0, True) and (state.given, state.kept) == (0, None) and span.tags["stream.chunks"] == 1


@pytest.mark.parametrize("whole", [False, True])
def test_the_times_of_a_divided_sound_count_from_what_is_left_of_it(engine, whole):
    engine.load_vocoder = lambda device, threads: Divider(whole)
    replies = asyncio.run(divided_replies(VocoderService(StageConfig(engine="fake"))))
    for reply in replies:
        assert reply.value.timings.times[:2].ravel().tolist() == [0.0, 0.25, 0.25, 0.75]
    assert [reply.value.timings.times[2].tolist() for reply in replies[:-1]] == [[0.75, 1.25]] * (len(replies) - 1)
    assert replies[-1].value.timings.times[2].tolist() == [0.75, 1.0], "what was cut off behind it is not heard"
