"""A stream's two stages as the ingress drives them, with stages of the test's own: what a death and an end mean."""

import asyncio
from contextlib import aclosing, suppress

import pytest
from ray.exceptions import ActorUnavailableError

from deployments.ingress.context import RequestContext
from deployments.ingress.stage_clients import Result, TtsClient, VocoderClient
from deployments.wire import FINAL, LAST, PART, SECONDS, SO_FAR, Reply, SoFar
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
                yield Result(Reply([], facts={PART: part, SECONDS: 1.0, FINAL: True, LAST: part == 1}), None)
        except GeneratorExit:
            self.closed = True
            raise


def vocoder(*replies: Reply | Exception, asked: list | None = None) -> VocoderClient:
    """Whose stage answers, or dies, in this order; `asked` gets what it was called with."""
    waiting = list(replies)

    async def vocode_chunk(carrier, facts: dict, parts: dict, so_far: SoFar) -> Reply:
        if asked is not None:
            asked.append((facts[SECONDS], so_far))
        reply = waiting.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    client = VocoderClient(None)
    client.remote_chunk = lambda *args: asyncio.ensure_future(vocode_chunk(*args))
    return client


def new_run() -> RequestContext:
    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    return RequestContext(Tracer("cosyvoice3-api"), root, 60.0, root.start_ns)


def test_where_the_vocoder_fails_nobody_goes_on_making_what_it_would_have_sounded():
    async def main():
        mel = Mel(new_run())
        with pytest.raises(InternalError) as failure:
            async for _ in vocoder(Reply([], error=InternalError("it broke"))).follow(mel.chunks(), mel.run):
                pass
        assert failure.value.__traceback__ is not None and mel.closed, "at once, though the failure is still held"

    asyncio.run(main())


@pytest.mark.parametrize("how", ["closes", "is cancelled"])
def test_where_the_listener_leaves_nobody_does_either(how):
    async def main():
        mel = Mel(new_run())

        async def listen():
            first = Reply([], facts={SO_FAR: SoFar(mel.run.started_ns, chunks=1, reached=(0, 1.0, True))})
            async with aclosing(vocoder(first).follow(mel.chunks(), mel.run)) as sounds:
                await anext(sounds)
                if how == "is cancelled":
                    await asyncio.Event().wait()

        task = asyncio.create_task(listen())
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert mel.closed
        [span] = mel.run.records
        assert span.name == "VOCODE_WAV" and span.tags["error.type"] == "cancelled"

    asyncio.run(main())


def chunk(seconds: float, remake=None) -> Result:
    return Result(Reply([], facts={PART: 0, SECONDS: seconds, FINAL: seconds == 3, LAST: seconds == 3}), remake)


def test_a_chunk_that_died_with_its_stages_is_made_again_and_the_listener_misses_and_repeats_nothing():
    """The vocoder dies with the second chunk, whose arrays are gone by the time there is another one. Made again, it
    reaches as far as the third, which is passed over then."""
    first, third = (
        Reply([], facts={SO_FAR: SoFar(1, chunks=count, reached=(0, seconds, seconds == 3), given=given)})
        for count, seconds, given in ((1, 1.0, 24_000), (2, 3.0, 0))
    )
    died, gone = ActorUnavailableError("it died", None), Reply([], input_lost=True)
    asked, run = [], new_run()

    async def further() -> Result:
        return chunk(3)

    async def chunks():
        yield chunk(1)
        yield chunk(2, further)
        yield chunk(3)

    async def main():
        client = vocoder(first, died, gone, third, asked=asked)
        assert [sound.reply async for sound in client.follow(chunks(), run)] == [first, third]

    asyncio.run(main())
    assert [seconds for seconds, _ in asked] == [1, 2, 2, 3]
    assert [so_far.given for _, so_far in asked] == [0, 24_000, 24_000, 24_000], "what was given out goes along"
    [span] = run.records
    assert (span.name, span.tags["error"]) == ("VOCODE_WAV", "the replica died")


def test_what_dies_twice_is_given_up():
    died = [ActorUnavailableError("it died", None) for _ in range(2)]

    async def main():
        mel = Mel(new_run())
        with pytest.raises(StageUnavailable, match="vocoder-service is not available"):
            async for _ in vocoder(*died).follow(mel.chunks(), mel.run):
                pass
        assert mel.closed and len(mel.run.records) == 2

    asyncio.run(main())


class Replies:
    """tts-service's stream: a chunk for each second, and at the end the spans."""

    def __init__(self) -> None:
        self.seconds = iter((1, 2, 3))
        self.cancelled = False

    async def __anext__(self) -> Reply:
        seconds = next(self.seconds, None)
        return chunk(seconds).reply if seconds else Reply([])

    def cancel(self) -> None:
        self.cancelled = True


def test_making_one_chunk_again_ends_with_it_and_is_not_put_down_to_the_client():
    async def main():
        run, streams, client = new_run(), [], TtsClient(None)

        def begin(*args) -> Replies:
            streams.append(Replies())
            return streams[-1]

        client.remote_stream = begin
        chunks = client.stream(Utterance("Hello", "en-US"), Result(Reply([]), None), run)
        second = [found async for found in chunks][1]
        assert run.records == [] and not streams[0].cancelled
        again = await second.remake()
        assert again.reply.facts[SECONDS] == 2, "what was given out before it is passed over"
        assert streams[1].cancelled
        [span] = run.records
        assert (span.tags["error.type"], span.tags["error"]) == ("cancelled", "the stream ended before its last chunk")

    asyncio.run(main())
