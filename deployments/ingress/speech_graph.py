"""The DAG as the ingress needs it; `graph.py` defines the order of the stages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from deployments.ingress.context import StageContext
from deployments.ingress.incoming_text import IncomingText
from deployments.ingress.part_plan import PartEnds
from deployments.ingress.stage_clients import StageClient
from deployments.ingress.stage_result import StageResult, VoiceRef
from deployments.wire import AudioReply, ClipReply, VoiceReply
from speech.utterance import Utterance


class SpeechGraph(Protocol):
    """Runs requests through the stages. Only small replies come back to the ingress, and the finished audio."""

    @property
    def stages(self) -> Mapping[str, StageClient]:
        """The four clients by service name."""
        ...

    async def speaker(
        self, upload: bytes, transcript: str | None, ctx: StageContext, *, for_fit: bool = False
    ) -> tuple[StageResult[ClipReply], StageResult[VoiceReply]]:
        """Find the voice in a clip; returns audio-service's result and embedding-service's.

        `for_fit` also finds what a fit without the clip needs.
        """
        ...

    async def speech(self, utterance: Utterance, voice: VoiceRef, ctx: StageContext) -> StageResult[AudioReply]:
        """Say an utterance; returns its whole audio."""
        ...

    async def speech_in_parts(
        self, utterance: Utterance, voice: VoiceRef, ctx: StageContext, ends: PartEnds
    ) -> AsyncGenerator[StageResult[AudioReply], None]:
        """Say an utterance; returns its audio in parts where its mel is divisible, else whole."""
        ...

    def speech_stream(
        self, utterance: Utterance, voice: VoiceRef, ctx: StageContext
    ) -> AsyncGenerator[StageResult[AudioReply], None]:
        """Say an utterance and yield its audio in chunks as they are made; where the engine streams."""
        ...

    def speech_stream_live(
        self,
        text: IncomingText,
        utterance: Utterance,
        voice: VoiceRef,
        ctx: StageContext,
        enter: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        paced: bool = False,
    ) -> AsyncGenerator[StageResult[AudioReply], None]:
        """Say a text while it comes and yield its audio in chunks; where `Capabilities.live_text` is true.

        `utterance` says how; its text is not used. `enter` and `paced` are those of `TtsClient.stream_live`.
        """
        ...
