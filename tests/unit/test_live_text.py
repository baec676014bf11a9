"""A text that comes in fragments through client, tts-service and vocoder-service, on a tiny CosyVoice3 checkpoint."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError

from deployments.ingress.context import RequestContext
from deployments.ingress.following import Follower
from deployments.ingress.incoming_text import IncomingText
from deployments.ingress.peer_clocks import PeerClocks
from deployments.ingress.stage_clients import TtsClient
from deployments.ingress.vocoder_client import VocoderClient
from deployments.ingress.voice_cache import CachedVoice
from deployments.settings import StageConfig
from deployments.stages import base
from deployments.stages.tts import TtsService
from deployments.stages.vocoder import VocoderService
from engines import contract
from engines.contract import Capabilities, Utterance
from engines.cosyvoice3 import CosyVoice3Engine
from speech.errors import DeadlineExceeded, InvalidInput, StageUnavailable
from tests.helpers.cosyvoice3 import random_voice, tiny_checkpoint  # noqa: F401
from tracing import Tracer

TEXT = "The quick brown fox jumps over it. Then it goes home."
SAYS = Utterance("", "en-US", seed=3)


@pytest.fixture(scope="module")
def engine(tiny):
    return CosyVoice3Engine(model_dir=str(tiny.path), lm_rows=4)


@pytest.fixture(scope="module")
def services(engine):
    """The two stages in this process, of the engine."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(
        base.serve, "get_replica_context", lambda: SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
    )
    monkeypatch.setattr(
        base.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here", get_accelerator_ids=dict)
    )
    monkeypatch.setattr(base, "Nodes", lambda: lambda: False)
    monkeypatch.setattr(contract, "create", lambda name, options: engine)
    config = StageConfig(engine="cosyvoice3")
    yield TtsService(config), VocoderService(config)
    monkeypatch.undo()


class Replies:
    """A streamed call in this process. `dies_after`: the replica is lost after so many replies."""

    def __init__(self, replies, dies_after: int | None) -> None:
        self._replies, self._left = replies, dies_after

    async def __anext__(self):
        if self._left == 0:
            await self._replies.aclose()
            raise ActorUnavailableError("it died", None)
        reply = await anext(self._replies)
        if self._left is not None:
            self._left -= 1
        return reply

    def cancel(self) -> None:
        asyncio.ensure_future(self._replies.aclose())


class Stages:
    """Clients of two stages in this process; `calls` has each call of tts-service."""

    def __init__(self, services, dies: dict[int, int] | None = None) -> None:
        self.calls: list[Utterance] = []
        tts, vocoder = services
        self.tts, self.vocoder = TtsClient(None), VocoderClient(None)
        for client in (self.tts, self.vocoder):
            client.clocks = PeerClocks("here")
            client.arrays = tts.arrays

        def stream(call, utterance, voice, said, beyond) -> Replies:
            self.calls.append(utterance)
            replies = tts.stream(call, utterance, voice, said, beyond)
            return Replies(replies, (dies or {}).get(len(self.calls)))

        self.tts.remote_stream = stream
        self.vocoder.remote_chunk = lambda *given: asyncio.ensure_future(vocoder.vocode_chunk(*given))
        self.service, self.arrays = tts, tts.arrays

    async def say(self, fragments, run: RequestContext, **settings):
        """Yield the samples of a text while it comes."""
        text = IncomingText(fragments, **settings)
        voice = CachedVoice(random_voice(40, seed=4).arrays)
        mels = self.tts.stream_live(text, SAYS, voice, run)
        async with aclosing(self.vocoder.vocode_stream(mels, run)) as chunks:
            async for chunk in chunks:
                yield await self.arrays.unpack(chunk.value.pcm)


def new_run(seconds: float = 60.0) -> RequestContext:
    root = Tracer("cosyvoice3-api").server("WS", parent=None)
    return RequestContext(Tracer("cosyvoice3-api"), root, seconds, time.time_ns())


async def at_once(text: str):
    yield text


async def heard(stages: Stages, fragments, run: RequestContext) -> np.ndarray:
    return np.concatenate([samples async for samples in stages.say(fragments, run)])


@pytest.fixture(scope="module")
def whole(services):
    return asyncio.run(heard(Stages(services), at_once(TEXT), new_run()))


class Typed:
    """The words of the text: two, then two, and the rest when the first sound was heard."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.given = 0

    async def __aiter__(self):
        for word in TEXT.split(" "):
            yield f"{word} " if word != "home." else word
            self.given += 1
            if self.given == 2:
                await asyncio.sleep(0.4)  # longer than text is waited for: it is called with these two
            if self.given == 4:
                await asyncio.wait_for(self.go.wait(), 60)  # the first sound must come before the rest of the text


@pytest.mark.parametrize("dies", [{}, {2: 1}, {1: 0, 3: 1}])
def test_it_is_heard_before_it_is_complete_and_sounds_as_it_would_at_once(services, whole, dies):
    """Also where replicas die on the way, each after so many replies of the call of that number."""

    async def scenario():
        stages, run, typed, parts = Stages(services, dies), new_run(), Typed(), []
        async for samples in stages.say(typed, run):
            parts.append(samples)
            if sum(map(len, parts)):
                typed.go.set()
        return stages, run, parts

    stages, run, parts = asyncio.run(scenario())
    sound = np.concatenate(parts)
    assert sound.shape == whole.shape and np.abs(sound.astype(int) - whole.astype(int)).max() <= 2
    assert [call.open for call in stages.calls][-1] is False and sum(call.open for call in stages.calls) >= 2
    assert all(call.live for call in stages.calls)
    mels = [span for span in run.stage_spans if span.name == "GENERATE_MEL"]
    assert len(mels) == len(stages.calls), "each call has its span, a lost one the ingress's"
    assert sum("text ran out" in {name for _, name in span.events} for span in mels) >= 2
    assert sum(span.tags.get("error") == "the replica died" for span in mels) == len(dies)
    assert [span.name for span in run.stage_spans].count("VOCODE_WAV") == 1


def test_between_its_calls_no_row_is_taken_and_left_alone_it_stops(services):
    async def scenario():
        stages, run, typed = Stages(services), new_run(), Typed()
        async with aclosing(stages.say(typed, run)) as sounds:
            await anext(sounds)
            while (await stages.service.rows())["decoding"]:
                await asyncio.sleep(0.01)
            count = len(stages.calls)
        await asyncio.sleep(0.1)
        assert len(stages.calls) == count and typed.given <= 4
        rows = await stages.service.rows()
        assert rows["decoding"] == rows["waiting"] == 0

    asyncio.run(scenario())


def test_the_ingress_follows_it_and_is_in_the_graph_only_while_there_is_something_to_say(services, engine, whole):
    inside, longest = 0, []

    @asynccontextmanager
    async def admit():
        nonlocal inside
        inside += 1
        longest.append(inside)
        yield
        inside -= 1

    async def scenario():
        stages, run, typed, parts = Stages(services), new_run(seconds=0.0), Typed(), []

        def stream(text, utterance, voice, ctx, enter, paced):
            return stages.vocoder.vocode_stream(stages.tts.stream_live(text, utterance, voice, ctx, enter, paced), ctx)

        graph = SimpleNamespace(speech_stream_live=stream)
        follower = Follower(graph, engine.capabilities, stages.arrays)
        voice = CachedVoice(random_voice(40, seed=4).arrays)
        async for part in follower.follow_live(IncomingText(typed), SAYS, voice, run, admit, deadline_s=30.0):
            parts.append(part)
            if len(part.audio.samples) and not typed.go.is_set():
                typed.go.set()
        return run, stages, parts

    run, stages, parts = asyncio.run(scenario())
    assert {part.number for part in parts} == {0} and [part.ends for part in parts] == [False] * (len(parts) - 1) + [
        True
    ]
    sound = np.concatenate([part.audio.samples for part in parts])
    assert sound.shape == whole.shape and np.abs(sound.astype(int) - whole.astype(int)).max() <= 2
    assert longest == [1] * len(stages.calls) and inside == 0
    assert run.first_audio_s is not None and 0 < run.first_piece_s and run.remaining_s() > 0, (
        "its deadline was extended"
    )


async def never(beginning: str = "The quick brown fox jumps "):
    yield beginning
    await asyncio.sleep(60)


def test_a_text_whose_end_never_comes_is_given_up(services):
    async def scenario(text, run, **settings):
        with pytest.raises(DeadlineExceeded) as failure:
            async for _ in Stages(services).say(text, run, **settings):
                pass
        return failure.value

    error = asyncio.run(scenario(never(), new_run(), timeout_s=0.5))
    assert error.code == "text_overdue" and "No more text came for" in error.message
    # Too little to say any of it: a machine that computes slowly reaches its deadline in the same place.
    error = asyncio.run(scenario(never("The "), new_run(seconds=1.0)))
    assert error.code == "text_overdue" and "deadline passed before its text was complete" in error.message


def test_nothing_to_say_is_an_error_of_the_text(services):
    with pytest.raises(InvalidInput) as failure:
        asyncio.run(heard(Stages(services), at_once(" … "), new_run()))
    assert failure.value.code == "text_not_speakable"


def test_a_replica_that_dies_twice_is_given_up(services):
    with pytest.raises(StageUnavailable, match="tts-service is not available"):
        asyncio.run(heard(Stages(services, {1: 0, 2: 0}), at_once(TEXT), new_run()))


def test_an_engine_that_can_not_do_it_says_so(services, engine, monkeypatch):
    monkeypatch.setattr(
        engine, "capabilities", Capabilities("fake", "1", 24_000, frozenset(), frozenset(), (), streaming=True)
    )
    with pytest.raises(InvalidInput, match="can't say a text token by token") as failure:
        asyncio.run(heard(Stages(services), at_once(TEXT), new_run()))
    assert failure.value.code == "live_text_unsupported"
