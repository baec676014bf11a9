"""Pieces of a request on their way through the graph, with a pipeline of the test's own; time is a list of events."""

import asyncio
import re
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from deployments.arrays import ArrayStore
from deployments.ingress.context import RequestContext
from deployments.ingress.part_plan import ends_of_parts
from deployments.ingress.stage_result import StageResult
from deployments.ingress.synthesis import Synthesizer
from deployments.ingress.voice_cache import CachedVoice
from deployments.ingress.voice_resolver import Clip
from deployments.wire import AudioChunkReply, AudioReply, StreamState
from engines.contract import Capabilities, Utterance
from speech import requests
from speech.errors import InternalError
from speech.joining import SENTENCE_PAUSE_S
from speech.words import AudioPart, Timings
from tracing import Tracer, vocabulary

RATE = 24_000
HOLD_S = 1.0
TEXT = "Here is the first of the sentences. Here is the second of the sentences. Here is the third of them all."
TWO = "Here is the first of the sentences. Here is the second of them."
VOICE = CachedVoice({"embedding": np.ones(4)})


def sound(number: int, seconds: float = 0.5) -> np.ndarray:
    return np.full(int(seconds * RATE), 1000 * (number + 1), np.int16)


class Pipeline:
    """Each piece waits until the test lets it go; `said` and `ended` are what happened, in order."""

    stages: dict = {}

    def __init__(self) -> None:
        self.said: list[str] = []
        self.cancelled: list[str] = []
        self.ready: dict[str, asyncio.Event] = {}
        self.wrong: str | None = None
        self.free = True

    async def speech(self, utterance: Utterance, voice, run) -> StageResult:
        self.said.append(utterance.text)
        number = len(self.said) - 1
        try:
            if not self.free:
                await self.ready.setdefault(utterance.text, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.append(utterance.text)
            raise
        if utterance.text == self.wrong:
            raise InternalError("it went wrong")
        return StageResult(AudioReply(sound(number), 0.5), None)

    async def speech_in_parts(self, utterance: Utterance, voice, run, ends):
        return self.whole(await self.speech(utterance, voice, run))

    async def whole(self, made):
        yield made

    async def speech_stream(self, utterance: Utterance, voice, run):
        self.said.append(utterance.text)
        for number in range(3):
            yield StageResult(AudioReply(sound(number, 0.2), 0.2), None)


class Voices:
    """Resolves every clip to the same voice."""

    async def resolve(self, source, run) -> CachedVoice:
        return VOICE


def speaking(pipeline: Pipeline, streaming: bool = False, at_once: int = 2) -> Synthesizer:
    can = Capabilities("fake", "1", RATE, frozenset({"en-US"}), frozenset({"fast"}), (16_000,), streaming=streaming)
    return Synthesizer(pipeline, Voices(), can, ArrayStore("here", lambda: False), at_once, HOLD_S)


source = Clip(b"clip", None)


def new_run() -> RequestContext:
    tracer = Tracer("cosyvoice3-api")
    root = tracer.server("POST /api/generate", parent=None)
    return RequestContext(tracer, root, 60.0, root.start_ns)


def ask(text: str = TEXT, **fields: str) -> requests.SpeechRequest:
    return requests.parse({"text": text, "dialect": "en-US"} | fields)


def levels(samples: np.ndarray) -> list[int]:
    """The levels that follow each other, silence and fades left out."""
    steady = samples[np.isin(samples, (1000, 2000, 3000))]
    return steady[np.insert(np.diff(steady) != 0, 0, True)].tolist()


def test_a_text_that_is_not_long_is_one_utterance():
    pipeline, run = Pipeline(), new_run()
    samples = asyncio.run(speaking(pipeline).synthesize(ask(), source, run)).samples
    assert pipeline.said == [TEXT] and (samples == sound(0)).all(), "as it came, untouched"
    assert vocabulary.PIECES not in run.finish(200)[0].tags


def test_pieces_are_put_together_in_their_order_with_pauses():
    long = " ".join([TEXT] * 3)
    pipeline, run = Pipeline(), new_run()
    joined = asyncio.run(speaking(pipeline, at_once=8).synthesize(ask(long, long_form="true"), source, run))
    samples = joined.samples
    count = len(pipeline.said)
    assert count >= 2 and " ".join(pipeline.said) == long
    assert levels(samples) == [1000 * (number + 1) for number in range(count)][:3]
    assert len(samples) / RATE == pytest.approx(0.5 * count + SENTENCE_PAUSE_S * (count - 1), abs=0.02)
    assert run.finish(200)[0].tags[vocabulary.PIECES] == count


def test_the_first_piece_of_a_stream_is_alone_until_it_is_heard_and_then_so_many_are_at_once():
    async def scenario():
        pipeline = Pipeline()
        pipeline.free = False
        run = new_run()
        async with aclosing(speaking(pipeline, at_once=2).stream(ask(), source, run)) as sounds:
            first = asyncio.create_task(anext(sounds))
            await until(lambda: pipeline.said)
            await asyncio.sleep(0.01)
            assert len(pipeline.said) == 1
            pipeline.ready[pipeline.said[0]].set()
            assert levels((await first).samples) == [1000]
            await asyncio.sleep(0.01)
            assert len(pipeline.said) == 2, "two at once: the one that is listened to, and one ahead"
            for text in list(pipeline.said):
                pipeline.ready.setdefault(text, asyncio.Event()).set()
            rest = asyncio.create_task(anext(sounds))
            await rest
            await until(lambda: len(pipeline.said) == 3)
            pipeline.ready.setdefault(pipeline.said[2], asyncio.Event()).set()
            found = [part.samples async for part in sounds]
            assert levels(np.concatenate(found)) == [3000]
        [root] = run.finish(200)[:1]
        assert [text for _, text in root.events] == [vocabulary.FIRST_CHUNK]

    asyncio.run(scenario())


def test_one_piece_at_a_time_is_enough():
    async def read() -> list[int]:
        sounds = [part.samples async for part in speaking(Pipeline(), at_once=1).stream(ask(), source, new_run())]
        return levels(np.concatenate(sounds))

    async def scenario() -> list[int]:
        return await asyncio.wait_for(read(), 10)

    assert asyncio.run(scenario()) == [1000, 2000, 3000]


def test_who_stops_listening_cancels_what_is_under_way():
    async def scenario():
        pipeline, run = Pipeline(), new_run()
        pipeline.free = False
        async with aclosing(speaking(pipeline, at_once=3).stream(ask(), source, run)) as sounds:
            first = asyncio.create_task(anext(sounds))
            await until(lambda: pipeline.said)
            pipeline.ready[pipeline.said[0]].set()
            await first
            await until(lambda: len(pipeline.said) == 2)
        assert pipeline.cancelled == pipeline.said[1:]

    asyncio.run(scenario())


@pytest.mark.parametrize("takes_s, beside", [(0.2, 2), (3.0, 3)])
def test_a_piece_starts_beside_its_predecessor_only_where_it_would_come_too_late(takes_s, beside):
    async def scenario() -> int:
        pipeline, run = Pipeline(), new_run()
        synthesizer = speaking(pipeline, at_once=3)
        for _ in range(3):
            synthesizer._run_ahead.note_piece(ask(TWO[:36]).utterance, 2.0, takes_s)
        pipeline.free = False
        async with aclosing(synthesizer.stream(ask(), source, run)) as sounds:
            first = asyncio.create_task(anext(sounds))
            await until(lambda: pipeline.said)
            for text in list(pipeline.said):
                pipeline.ready[text].set()
            with run.continuity.sending(len((await first).samples) / RATE):
                await asyncio.sleep(0.1)
            return len(pipeline.said)

    assert asyncio.run(scenario()) == beside


def test_a_piece_that_fails_ends_the_request_and_the_others_are_given_up():
    async def scenario():
        pipeline, run = Pipeline(), new_run()
        pipeline.wrong = "Here is the second of the sentences."
        sounds = speaking(pipeline, at_once=3).stream(ask(), source, run)
        heard = []
        with pytest.raises(InternalError):
            async for part in sounds:
                heard.append(part.samples)
        assert levels(np.concatenate(heard)) == [1000] and run.abandoned

    asyncio.run(scenario())


@pytest.mark.parametrize("streamed", [True, False])
def test_a_piece_that_can_not_be_started_ends_the_request(streamed, monkeypatch):
    run = new_run()
    monkeypatch.setattr(run, "segment", lambda *place: 1 / 0)

    async def read() -> None:
        if streamed:
            async for _ in speaking(Pipeline()).stream(ask(), source, run):
                pass
        else:
            await speaking(Pipeline()).synthesize(ask(" ".join([TEXT] * 3), long_form="true"), source, run)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(read(), 10))


def test_an_engine_that_streams_gets_the_whole_text_and_its_chunks_pass_as_they_are():
    async def scenario():
        pipeline, run = Pipeline(), new_run()
        found = [part.samples async for part in speaking(pipeline, streaming=True).stream(ask(), source, run)]
        assert pipeline.said == [TEXT]
        assert [len(samples) for samples in found] == [int(0.2 * RATE)] * 3
        assert levels(np.concatenate(found)) == [1000, 2000, 3000]

    asyncio.run(scenario())


async def until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it never happened")


class Divided(Pipeline):
    """Makes pieces in parts of half a second, as it is told to; `divided` has what each piece's parts were."""

    def __init__(self) -> None:
        super().__init__()
        self.divided: list[list[float]] = []

    async def speech_in_parts(self, utterance: Utterance, voice, run, ends):
        made = await self.speech(utterance, voice, run)
        cuts = [0.0, *ends(3.0), 3.0]
        self.divided.append(cuts)
        return self.parts(made, cuts)

    async def parts(self, made, cuts):
        for start, end in zip(cuts, cuts[1:], strict=False):
            state = StreamState(reached=(0, end, end == cuts[-1]))
            samples = np.full(int((end - start) * RATE), made.value.pcm[0], np.int16)
            yield StageResult(AudioChunkReply(samples, end - start, state), None)
            await asyncio.sleep(0.01)


def test_a_piece_that_is_waited_for_comes_in_parts_and_is_heard_at_the_first():
    pipeline, run = Divided(), new_run()

    async def read() -> list[np.ndarray]:
        parts = []
        async for part in speaking(pipeline).stream(ask(), source, run):
            with run.continuity.sending(len(part.samples) / RATE):
                parts.append(part.samples)
        return parts

    parts = asyncio.run(read())
    assert pipeline.divided == [[0.0, *ends_of_parts(3.0), 3.0]], "the others have time"
    assert len(pipeline.said) == 3 and 0.4 < len(parts[0]) / RATE <= 0.5
    assert levels(np.concatenate(parts)) == [1000, 2000, 3000]
    assert len(np.concatenate(parts)) / RATE == pytest.approx(3 + 2 * 0.5 + 2 * SENTENCE_PAUSE_S, abs=0.1)
    assert "stream.hold_ms" not in run.finish(200)[0].tags


def test_a_whole_answer_is_not_divided():
    pipeline = Divided()
    asyncio.run(speaking(pipeline).synthesize(ask(), source, new_run()))
    assert pipeline.divided == []


class TimedParts(Divided):
    """Says that the words of a piece share its 3 s evenly, one directly behind the other."""

    async def speech(self, utterance, voice, run):
        return replace(await super().speech(utterance, voice, run), value=self.said_in(utterance.text))

    async def parts(self, made, cuts):
        async for part in super().parts(made, cuts):
            yield replace(part, value=replace(part.value, timings=made.value.timings))

    @staticmethod
    def said_in(text: str) -> AudioReply:
        spans = np.array([word.span() for word in re.finditer(r"\w+", text)], np.int32)
        edges = np.linspace(0, 3, len(spans) + 1)
        times = np.stack([edges[:-1], edges[1:]], 1).astype(np.float32)
        timings = Timings(spans, np.arange(len(spans), dtype=np.int32), times)
        return AudioReply(sound(0, 3.0), 3.0, timings=timings)


@pytest.mark.parametrize("divided", [True, False])
def test_each_word_comes_once_and_with_its_audio_or_the_next(divided):
    pipeline, run = TimedParts(), new_run()
    if not divided:
        pipeline.speech_in_parts = Pipeline.speech_in_parts.__get__(pipeline)
    asked = ask(timestamps="word", stream_format="sse")

    async def read() -> list[AudioPart]:
        parts = []
        async for part in speaking(pipeline).stream(asked, source, run):
            with run.continuity.sending(len(part.samples) / RATE):
                parts.append(part)
        return parts

    parts = asyncio.run(read())
    assert len(pipeline.divided) == divided and [word.text for part in parts for word in part.words] == re.findall(
        r"\w+", TEXT
    )
    heard, last_s, waited = 0.0, 0.0, 0
    for part in parts:
        before, heard = heard, heard + len(part.samples) / RATE
        for word in part.words:
            assert last_s <= word.start_s < word.end_s <= heard + 1e-4 and word.end_s > before - 1.0
            waited += word.end_s < before
            last_s = word.end_s
    first = [word for part in parts if part.words for word in part.words][:7]
    np.testing.assert_allclose([word.end_s for word in first], np.linspace(0, 3, 8)[1:], atol=0.01)
    assert waited <= 3 and (not divided or len(parts[0].words) < 7), "not all at once with the first sound"


class Telling(Pipeline):
    """Tells when each piece is due, in seconds after its request came."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[float] = []

    async def speech(self, utterance, voice, run):
        self.due.append((run.call_context().due_ns - run.started_ns) / 1e9)
        return await super().speech(utterance, voice, run)


def test_each_piece_of_a_stream_is_due_when_its_listener_needs_it():
    pipeline, run = Telling(), new_run()

    async def read():
        async for part in speaking(pipeline, at_once=3).stream(ask(), source, run):
            with run.continuity.sending(len(part.samples) / RATE):
                pass

    asyncio.run(read())
    first, second, third = pipeline.due
    assert first == pytest.approx(HOLD_S, abs=0.2), "it may be put back by so much"
    assert second == pytest.approx(0.5, abs=0.2), (
        "half a second of audio is before it, and nothing is known of its time"
    )
    assert third == pytest.approx(second + 0.5, abs=0.1), "it was started when the second was made"


def test_a_whole_answer_is_due_like_a_first_sound_and_a_long_one_later():
    pipeline, run = Telling(), new_run()
    asyncio.run(speaking(pipeline).synthesize(ask(), source, run))
    assert pipeline.due == [pytest.approx(HOLD_S)]

    async def long() -> None:
        run = new_run()
        await run.extend_deadline(600)
        await speaking(pipeline).synthesize(ask(" ".join([TEXT] * 3), long_form="true"), source, run)

    asyncio.run(long())
    assert pipeline.due[1:] == [pytest.approx(540 + HOLD_S)] * (len(pipeline.due) - 1)


def test_a_first_sound_is_held_back_while_the_second_is_expected_to_come_too_late():
    class Slow(Pipeline):
        async def speech(self, utterance, voice, run):
            await asyncio.sleep(0.8 if "second" in utterance.text else 0.0)  # for half a second of audio
            return await super().speech(utterance, voice, run)

    async def read(known: bool) -> dict:
        pipeline, run = Slow(), new_run()
        synthesizer = speaking(pipeline)
        for _ in range(9 * known):
            synthesizer._run_ahead.note_piece(ask(TWO).utterance, 0.5, 0.8)
        async for part in synthesizer.stream(ask(TWO), source, run):
            with run.continuity.sending(len(part.samples) / RATE):
                pass
        return run.finish(200)[0].tags

    unknown, known = asyncio.run(read(False)), asyncio.run(read(True))
    assert unknown["stream.continuous"] == "false" and "stream.hold_ms" not in unknown
    assert 100 < known["stream.hold_ms"] < 700 and known["stream.underrun_ms"] < unknown["stream.underrun_ms"] - 100


def timings(text: str) -> Timings:
    """Return the times of a text's words, each as long, over half a second."""
    spans = [match.span() for match in re.finditer(r"[\w*]+", text)]
    edges = np.linspace(0.1, 0.4, len(spans) + 1, dtype=np.float32)
    return Timings(np.array(spans, np.int32), np.arange(len(spans)), np.stack([edges[:-1], edges[1:]], 1))


class Timed(Pipeline):
    """Knows when it says each word, in audio that begins and ends with silence."""

    async def speech(self, utterance: Utterance, voice, run) -> StageResult:
        made = await super().speech(utterance, voice, run)
        silent = np.zeros(RATE // 10, np.int16)
        pcm = np.concatenate([silent, made.value.pcm[: 3 * RATE // 10], silent])
        return StageResult(AudioReply(pcm, 0.5, timings=timings(str(utterance.text))), None)


def check_words(text: str, words, samples: np.ndarray) -> None:
    """Each word is what was written, and lies in the sound of its own piece."""
    assert [word.text for word in words] == re.findall(r"[\w*]+", text)
    for word in words:
        assert text[word.start : word.end] == word.text
        start, end = round(word.start_s * RATE), round(word.end_s * RATE)
        edge = min(120, (end - start) // 3)  # the joiner fades the ends of a piece
        inside = samples[start + edge : end - edge]
        assert len(set(inside.tolist())) == 1 and inside[0] >= 1000, "steady: neither a pause nor another piece"


@pytest.mark.parametrize("way", ["one", "long", "stream"])
def test_words_lie_in_the_request_s_audio_where_their_piece_has_them(way):
    text = TEXT if way != "long" else " ".join([TEXT] * 3)

    async def scenario():
        fields = {"timestamps": "word"} | ({"long_form": "true"} if way == "long" else {})
        speech = speaking(Timed(), at_once=3)
        if way == "stream":
            stream = speech.stream(ask(text, stream_format="sse", **fields), source, new_run())
            parts = [part async for part in stream]
        else:
            parts = [await speech.synthesize(ask(text, **fields), source, new_run())]
        heard = 0
        for part in parts:
            heard += len(part.samples)
            assert all(word.end_s <= heard / RATE for word in part.words), "never later than its audio"
        samples = np.concatenate([part.samples for part in parts])
        check_words(text, [word for part in parts for word in part.words], samples)

    asyncio.run(scenario())


def test_without_the_wish_there_are_no_words():
    audio = asyncio.run(speaking(Timed()).synthesize(ask(), source, new_run()))
    assert audio.words == ()


def test_parts_are_what_went_through_the_graph_together():
    text = " ".join([TEXT] * 3)
    pipeline = Timed()
    request = ask(text, timestamps="part", long_form="true")
    audio = asyncio.run(speaking(pipeline, at_once=1).synthesize(request, source, new_run()))
    assert [word.text for word in audio.words] == pipeline.said
    for before, after in zip(audio.words, audio.words[1:], strict=False):
        assert after.start_s - before.end_s == pytest.approx(SENTENCE_PAUSE_S - 0.12, abs=0.03)
    assert audio.words[-1].end_s == pytest.approx(len(audio.samples) / RATE)


def test_an_engine_that_streams_tells_its_part_at_the_end():
    async def scenario():
        request = ask(timestamps="part", stream_format="sse")
        parts = [part async for part in speaking(Pipeline(), streaming=True).stream(request, source, new_run())]
        assert [len(part.words) for part in parts] == [0, 0, 0, 1]
        (whole,) = parts[-1].words
        assert (whole.text, whole.start_s) == (TEXT, 0.0) and whole.end_s == pytest.approx(0.6)

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_words_around_a_pause_stand_where_they_were_written(stream):
    """A pause is part of the written text, and of no word; Markdown may reach over it."""
    text = "**First [pause:0.5s] second** one. [pause:1s] Third."
    fields = {"timestamps": "word"} | ({"stream_format": "sse"} if stream else {})

    async def scenario():
        speech = speaking(Timed(), at_once=3)
        if stream:
            return [part async for part in speech.stream(ask(text, **fields), source, new_run())]
        return [await speech.synthesize(ask(text, **fields), source, new_run())]

    parts = asyncio.run(scenario())
    words = [word for part in parts for word in part.words]
    assert [word.text for word in words] == ["First", "second", "one", "Third"]
    assert all(text[word.start : word.end] == word.text for word in words)
    samples = np.concatenate([part.samples for part in parts])
    for word in words:
        inside = samples[round(word.start_s * RATE) + 120 : round(word.end_s * RATE) - 120]
        assert len(set(inside.tolist())) == 1 and inside[0] >= 1000
    assert words[1].start_s - words[0].end_s == pytest.approx(0.5, abs=0.001)
    assert words[3].start_s - words[2].end_s == pytest.approx(1.0, abs=0.001)
