"""A stream's two stages as the ingress drives them, with stages of the test's own: what a death and an end mean."""

import asyncio
import math
from contextlib import aclosing, suppress
from dataclasses import replace

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError

from deployments.ingress.context import RequestContext
from deployments.ingress.peer_clocks import PeerClocks
from deployments.ingress.stage_clients import TtsClient
from deployments.ingress.stage_result import StageResult
from deployments.ingress.vocoder_client import VocoderClient
from deployments.wire import AudioChunkReply, MelChunkReply, MelReply, StageReply, StreamState, VoiceReply
from engines.contract import Utterance
from speech.errors import InternalError, StageUnavailable
from tracing import Tracer


class Mel:
    """Two chunks of a mel, and how their making ended."""

    def __init__(self, run: RequestContext) -> None:
        self.run = run
        self.closed = False

    async def chunks(self):
        try:
            for part in range(2):
                yield StageResult(MelChunkReply({}, 1.0, part, True, part == 1), None)
        except GeneratorExit:
            self.closed = True
            raise


def audio(state: StreamState) -> StageReply[AudioChunkReply]:
    """A reply without spans, as of any chunk but the last."""
    return StageReply([], AudioChunkReply(np.zeros(0, np.int16), 0.0, state))


def vocoder(*replies: StageReply | Exception, asked: list | None = None) -> VocoderClient:
    """A client whose stage answers, or dies, in this order; `asked` gets what it was called with."""
    waiting = list(replies)

    async def vocode_chunk(call, chunk: MelChunkReply, state: StreamState) -> StageReply:
        if asked is not None:
            asked.append((chunk.seconds, state))
        reply = waiting.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    client = VocoderClient(None)
    client.clocks = PeerClocks("here")
    client.remote_chunk = lambda *args: asyncio.ensure_future(vocode_chunk(*args))
    return client


def new_run() -> RequestContext:
    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    return RequestContext(Tracer("cosyvoice3-api"), root, 60.0, root.start_ns)


def test_where_the_vocoder_fails_nobody_goes_on_making_what_it_would_have_sounded():
    async def main():
        mel = Mel(new_run())
        with pytest.raises(InternalError) as failure:
            async for _ in vocoder(StageReply([], error=InternalError("it broke"))).vocode_stream(
                mel.chunks(), mel.run
            ):
                pass
        assert failure.value.__traceback__ is not None and mel.closed, "at once, though the failure is still held"

    asyncio.run(main())


@pytest.mark.parametrize("how", ["closes", "is cancelled"])
def test_where_the_listener_leaves_nobody_does_either(how):
    async def main():
        mel = Mel(new_run())

        async def listen():
            first = audio(StreamState(mel.run.started_ns, chunks=1, reached=(0, 1.0, True)))
            async with aclosing(vocoder(first).vocode_stream(mel.chunks(), mel.run)) as sounds:
                await anext(sounds)
                if how == "is cancelled":
                    await asyncio.Event().wait()

        task = asyncio.create_task(listen())
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert mel.closed
        [span] = mel.run.stage_spans
        assert span.name == "VOCODE_WAV" and span.tags["error.type"] == "cancelled"

    asyncio.run(main())


def chunk(seconds: float, remake=None) -> StageResult:
    said = (tuple(range(int(seconds))),)
    return StageResult(MelChunkReply({}, seconds, 0, seconds == 3, seconds == 3, said), remake)


def test_a_chunk_that_died_with_its_stages_is_made_again_and_the_listener_misses_and_repeats_nothing():
    """The vocoder dies with the second chunk, whose arrays are gone by the time there is another one. Made again, it
    reaches as far as the third, which is passed over then."""
    first, third = (
        audio(StreamState(1, chunks=count, reached=(0, seconds, seconds == 3), given=given))
        for count, seconds, given in ((1, 1.0, 24_000), (2, 3.0, 0))
    )
    died, gone = ActorUnavailableError("it died", None), StageReply([], input_lost=True)
    asked, run = [], new_run()

    async def further() -> StageResult:
        return chunk(3)

    async def chunks():
        yield chunk(1)
        yield chunk(2, further)
        yield chunk(3)

    async def main():
        client = vocoder(first, died, gone, third, asked=asked)
        assert [sound.value async for sound in client.vocode_stream(chunks(), run)] == [first.value, third.value]

    asyncio.run(main())
    assert [seconds for seconds, _ in asked] == [1, 2, 2, 3]
    assert [state.given for _, state in asked] == [0, 24_000, 24_000, 24_000], "what was given out goes along"
    [span] = run.stage_spans
    assert (span.name, span.tags["error"]) == ("VOCODE_WAV", "the replica died")


def test_what_dies_twice_is_given_up():
    died = [ActorUnavailableError("it died", None) for _ in range(2)]

    async def main():
        mel = Mel(new_run())
        with pytest.raises(StageUnavailable, match="vocoder-service is not available"):
            async for _ in vocoder(*died).vocode_stream(mel.chunks(), mel.run):
                pass
        assert mel.closed and len(mel.run.stage_spans) == 2

    asyncio.run(main())


class Replies:
    """tts-service's stream: a chunk for each second, and at the end the spans. Or it dies after one of its chunks."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.seconds = iter((1, 2, 3))
        self.dies_after = dies_after
        self.cancelled = False

    async def __anext__(self) -> StageReply:
        seconds = next(self.seconds, None)
        if seconds is not None and seconds - 1 == self.dies_after:
            raise ActorUnavailableError("it died", None)
        return StageReply([], chunk(seconds).value) if seconds else StageReply([])

    def cancel(self) -> None:
        self.cancelled = True


def test_a_replica_that_takes_over_is_given_what_the_dead_one_had_said():
    """Without its tokens, an engine in half precision would go on with another speech from the same seed."""

    async def main():
        run, given, client = new_run(), [], TtsClient(None)
        client.clocks = PeerClocks("here")

        def begin(call, utterance, arrays, said, beyond) -> Replies:
            given.append(said)
            return Replies(dies_after=2 if len(given) == 1 else None)

        client.remote_stream = begin
        voice = StageResult(VoiceReply({}, ("engine", "1")), None)
        chunks = [found async for found in client.stream(Utterance("Hello", "en-US"), voice, run)]
        assert [found.value.seconds for found in chunks] == [1, 2, 3]
        assert given == [(), ((0, 1),)]
        await chunks[0].remake()
        assert given[2] == ((0,),), "a chunk is made again of its own tokens, not of later ones"

    asyncio.run(main())


def test_making_one_chunk_again_ends_with_it_and_is_not_put_down_to_the_client():
    async def main():
        run, streams, client = new_run(), [], TtsClient(None)
        client.clocks = PeerClocks("here")

        def begin(*args) -> Replies:
            streams.append(Replies())
            return streams[-1]

        client.remote_stream = begin
        voice = StageResult(VoiceReply({}, ("engine", "1")), None)
        chunks = client.stream(Utterance("Hello", "en-US"), voice, run)
        second = [found async for found in chunks][1]
        assert run.stage_spans == [] and not streams[0].cancelled
        again = await second.remake()
        assert again.value.seconds == 2, "what was given out before it is passed over"
        assert streams[1].cancelled
        [span] = run.stage_spans
        assert (span.tags["error.type"], span.tags["error"]) == ("cancelled", "the stream ended before its last chunk")

    asyncio.run(main())


def test_a_divisible_mel_is_vocoded_from_its_beginning_each_time_and_made_again_if_it_is_lost():
    async def main():
        asked: list = []
        mel = StageResult(MelReply({"features": "lost"}, 3.0, divisible=True), None)
        made_again = StageResult(MelReply({"features": "there"}, 3.0, divisible=True), None)

        async def remake():
            return made_again

        mel = replace(mel, remake=remake)
        first, last = (audio(StreamState(reached=(0, end, end == 3.0), chunks=1)) for end in (0.5, 3.0))
        client = vocoder(StageReply([], input_lost=True, error=StageUnavailable("gone")), first, last, asked=asked)
        parts = [part.value async for part in client.vocode_parts(mel, lambda seconds: [0.5], new_run())]
        assert parts == [first.value, last.value] and [part.complete for part in parts] == [False, True]
        assert [seconds for seconds, _ in asked] == [0.5, 0.5, 3.0]

    asyncio.run(main())


def test_where_the_first_part_was_the_whole_sound_no_other_is_asked_for():
    async def main():
        asked: list = []
        mel = StageResult(MelReply({}, 3.0, divisible=True), None)
        whole = audio(StreamState(reached=(0, math.inf, True), chunks=1))
        run = new_run()
        spans = Tracer("vocoder-service").server("VOCODE_WAV", parent=None).end()
        client = vocoder(replace(whole, spans=spans), asked=asked)
        parts = [part.value async for part in client.vocode_parts(mel, lambda seconds: [0.5, 1.5], run)]
        assert parts == [whole.value] and parts[0].complete and [seconds for seconds, _ in asked] == [0.5]
        assert run.stage_spans == spans, "the stage's own, and none of a broken stream"

    asyncio.run(main())
