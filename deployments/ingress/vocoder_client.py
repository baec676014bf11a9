"""The client of vocoder-service: a mel whole, the chunks of a stream, or a divisible mel in parts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing

from deployments import trace_error_messages
from deployments.arrays import ArrayStore
from deployments.ingress.context import StageContext
from deployments.ingress.part_plan import PartEnds
from deployments.ingress.peer_clocks import PeerClocks
from deployments.ingress.stage_clients import Response, StageClient
from deployments.ingress.stage_result import StageResult
from deployments.wire import AudioChunkReply, AudioReply, MelChunkReply, MelReply, StageReply, StreamState
from tracing import CallContext, vocabulary


class VocoderClient(StageClient):
    """Calls `deployments/stages/vocoder.py`."""

    stage, service = vocabulary.VOCODE_WAV, vocabulary.VOCODER
    remote: Callable[[CallContext, MelReply], Response[StageReply[AudioReply]]]
    remote_chunk: Callable[[CallContext, MelChunkReply, StreamState], Response[StageReply[AudioChunkReply]]]

    def connect(self, arrays: ArrayStore, clocks: PeerClocks) -> None:
        """Look up `VocoderService.vocode` and `VocoderService.vocode_chunk`."""
        super().connect(arrays, clocks)
        self.remote = self.handle.vocode.remote
        self.remote_chunk = self.handle.vocode_chunk.remote

    async def vocode(self, mel: StageResult[MelReply], ctx: StageContext) -> StageResult[AudioReply]:
        """Vocode a whole mel."""
        return await self._run(ctx, self.remote, mel)

    async def vocode_parts(
        self, mel: StageResult[MelReply], ends: PartEnds, ctx: StageContext
    ) -> AsyncGenerator[StageResult[AudioReply], None]:
        """Yield the sound of a mel in parts where the mel is divisible, else whole.

        Args:
            mel: the mel.
            ends: where the parts end.
            ctx: the request.
        """
        cuts = ends(mel.value.seconds) if mel.value.divisible else ()
        if not cuts:
            yield await self.vocode(mel, ctx)
            return

        async def chunks() -> AsyncGenerator[StageResult[MelChunkReply], None]:
            for end in (*cuts, None):
                yield _beginning(mel, end)

        async with aclosing(self.vocode_stream(chunks(), ctx)) as parts:
            async for part in parts:
                yield part

    async def vocode_stream(
        self, chunks: AsyncGenerator[StageResult[MelChunkReply], None], ctx: StageContext
    ) -> AsyncGenerator[StageResult[AudioChunkReply], None]:
        """Yield the audio that each chunk of a mel adds, as the chunks come.

        vocoder-service makes one span of all its calls, with the last one. Where a stream ends before, the ingress
        speaks for it.
        """
        state, open_span = StreamState(), False  # open_span: the stage has a span that no reply has brought yet

        def send(call: CallContext, chunk: MelChunkReply) -> Response[StageReply[AudioChunkReply]]:
            return self.remote_chunk(call, chunk, state)

        async with aclosing(chunks):  # or tts-service would go on, for as long as a failure's traceback is held
            with ExitStack() as stack:
                try:
                    async for chunk in chunks:
                        if state.reached is not None and chunk.value.reaches <= state.reached:
                            continue  # one that was made again in place of a lost one came as far
                        if not state.chunks:
                            stack.enter_context(ctx.progress(self.stage, self.service))
                        open_span = False  # a call that fails has a span, its own or the ingress's
                        audio = await self._call(ctx, send, chunk, spans_earlier_calls=bool(state.chunks))
                        state, open_span = audio.value.state, not audio.reported
                        yield audio
                except BaseException:
                    if open_span:
                        ctx.record_lost_stage(
                            self.stage,
                            self.service,
                            state.started_ns or 0,
                            "cancelled",
                            trace_error_messages.STREAM_BROKEN,
                        )
                    raise


def _beginning(mel: StageResult[MelReply], end: float | None) -> StageResult[MelChunkReply]:
    """Return the beginning of a mel, up to a second of its sound; None: all of it."""

    async def again() -> StageResult[MelChunkReply]:
        return _beginning(await mel.remake(), end)

    seconds = mel.value.seconds if end is None else end
    last = end is None
    beginning = MelChunkReply(mel.value.arrays, seconds, 0, final=last, last=last, timings=mel.value.timings)
    return StageResult(beginning, again)
