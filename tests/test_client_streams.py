"""A stream's two stages as the ingress drives them, with stages of the test's own: whose end ends the other."""

import asyncio
from contextlib import aclosing, suppress

import pytest

from deployments.client import Result, VocoderClient
from deployments.run import Run
from deployments.wire import FINAL, LAST, PART, SECONDS, SO_FAR, Reply, SoFar
from speech.errors import InternalError
from tracing import Tracer


class Mel:
    """Two chunks of a mel, and how their making ended."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.closed = self.abandoned = False

    async def chunks(self):
        try:
            for part in range(2):
                yield Result(Reply([], facts={PART: part, SECONDS: 1.0, FINAL: True, LAST: part == 1}), None)
        except GeneratorExit:
            self.closed, self.abandoned = True, self.run.abandoned
            raise


def vocoder(*replies: Reply) -> VocoderClient:
    waiting = list(replies)

    async def vocode_chunk(*args) -> Reply:
        return waiting.pop(0)
    client = VocoderClient(None)
    client.remote_chunk = lambda *args: asyncio.ensure_future(vocode_chunk(*args))
    return client


def new_run() -> Run:
    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    return Run(Tracer("cosyvoice3-api"), root, 60.0, root.start_ns)


def test_where_the_vocoder_fails_nobody_goes_on_making_what_it_would_have_sounded():
    async def main():
        mel = Mel(new_run())
        with pytest.raises(InternalError) as failure:
            async for _ in vocoder(Reply([], error=InternalError("it broke"))).follow(mel.chunks(), mel.run):
                pass
        assert failure.value.__traceback__ is not None and mel.closed, "at once, though the failure is still held"
        assert mel.abandoned, "or its span would say that the client had left"
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
        assert mel.closed and not mel.abandoned
        [span] = mel.run.records
        assert span.name == "VOCODE_WAV" and span.tags["error.type"] == "cancelled"
    asyncio.run(main())
