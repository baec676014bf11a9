"""One utterance of a WebSocket session: the text as it comes, in pieces, and the trace that it makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from deployments.ingress.context import RequestContext
from deployments.ingress.live_messages import AudioForm
from deployments.ingress.live_speech import SessionVoice
from deployments.ingress.writing_pace import WritingPace
from speech.errors import SpeechError
from speech.incremental import IncrementalSplitter, Uncut

_AT_LEAST = 100  #: characters that any utterance is counted with: it costs a trace


class LiveUtterance:
    """An utterance between its first text and its last audio.

    Args:
        index: counts from 0 in its session.
        ctx: its trace.
        voice: the session's, as it was when the utterance began.
        form: the form of its audio.

    Attributes:
        over: nothing more is said of it: it is finished, failed or cancelled.
        sentences: the pieces of text so far that were taken to be spoken; by token, all of the text so far as one.
    """

    def __init__(self, index: int, ctx: RequestContext, voice: SessionVoice, form: AudioForm) -> None:
        self.index, self.ctx, self.voice, self.form = index, ctx, voice, form
        ctx.streaming = ctx.paced_by_text = True
        ctx.writing = self._pace = WritingPace()
        self._splitter = (
            Uncut() if form.by_token else IncrementalSplitter(voice.request.dialect.language, form.granularity)
        )
        self._pieces: asyncio.Queue[str | SpeechError | None] = asyncio.Queue()
        self._waiting = 0  # characters of the pieces that wait
        self.over = False
        self.sentences: list[str] = []
        self.said = 0  #: sentences whose audio is sent

    def add(self, text: str) -> None:
        """Take more text. An error in it ends the utterance, behind the audio of what was complete before it."""
        self._pace.add(len(text))
        try:
            self._give(self._splitter.completed(text))
        except SpeechError as error:
            self.fail(error)

    def finish(self) -> None:
        """Take the text as complete."""
        self._pace.ended = True
        try:
            self._give(self._splitter.finish())
        except SpeechError as error:
            self.fail(error)
        self._pieces.put_nowait(None)

    def fail(self, error: SpeechError) -> None:
        """End the utterance with an error, behind what can be said before it."""
        self._pieces.put_nowait(error)

    def _give(self, pieces: Iterable[str]) -> None:
        for piece in pieces:
            self._waiting += len(piece)
            self._pieces.put_nowait(piece)

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the pieces of text as they become complete."""
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, SpeechError):
                raise piece
            self._waiting -= len(piece)
            if self.form.by_token:
                self.sentences = ["".join((*self.sentences, piece))]
            else:
                self.sentences.append(piece)
            yield piece

    @property
    def ended(self) -> bool:
        """Its text is complete."""
        return self._pace.ended

    @property
    def unspoken(self) -> int:
        """Characters that wait to be spoken."""
        return 0 if self.over else max(_AT_LEAST, self._waiting)

    @property
    def busy(self) -> bool:
        """There is something to say, or to end, without any more text."""
        return not self.over and (self.ended or self._waiting > 0 or len(self.sentences) > self.said)
