"""Speech for text that comes bit by bit: the voice of a session, and the audio of one of its utterances."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace

from deployments.ingress.backends import Backend
from deployments.ingress.context import RequestContext
from deployments.ingress.following import FollowedPart
from deployments.ingress.incoming_text import IncomingText
from deployments.ingress.request_tags import tag_dialect
from deployments.ingress.voice_cache import CachedVoice
from deployments.ingress.voice_resolver import Clip, VoiceMix, VoiceSource
from engines.contract import Engine
from speech import pauses
from speech.dialects import Registry
from speech.errors import InvalidInput
from speech.limits import MAX_LONG_TEXT
from speech.requests import SpeechRequest
from speech.script import GrowingScript, check_script, script_of
from speech.text import check_text
from speech.utterance import Utterance
from tracing import vocabulary
from voices import VoiceRecord

#: Stands in for a session's text while its other fields are checked: fits every dialect, and is never spoken.
NO_TEXT_YET = "a"

_CLOSING_BRACKETS = frozenset("]］")

ParseSession = Callable[
    [Mapping[str, str], bytes | None, RequestContext], Awaitable[tuple[SpeechRequest, VoiceSource, Backend]]
]


@dataclass(frozen=True)
class SessionVoice:
    """The checked configuration of a session, with its voice.

    Attributes:
        request: the fields; its text stands for none.
        source: where the voice came from, to find it again; None for a clip that no other backend can need.
        backend: the backend that the voice was found for.
        voice: the voice.
    """

    request: SpeechRequest
    source: VoiceSource | None
    backend: Backend
    voice: CachedVoice

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.backend.engine.capabilities.sample_rate


class LiveSpeech:
    """Makes the speech of sessions, in one ingress replica.

    Args:
        registry: the dialects.
        parse: checks the fields of a session.
        backend_for: chooses a request's backend.
        admitted: holds a request's place in the graph.
        has_fallback: there is another backend, which may have to find a voice again.
    """

    def __init__(
        self,
        registry: Registry,
        parse: ParseSession,
        backend_for: Callable[[RequestContext], Backend],
        admitted: Callable[[RequestContext], AbstractAsyncContextManager[None]],
        has_fallback: bool = False,
    ) -> None:
        self._registry = registry
        self._parse = parse
        self._backend_for = backend_for
        self._admitted = admitted
        self._has_fallback = has_fallback

    async def configure(self, fields: Mapping[str, str], upload: bytes | None, ctx: RequestContext) -> SessionVoice:
        """Check a session's fields and find its voice, so that its first utterance need not.

        Raises:
            SpeechError: a field is wrong, or a stage failed.
        """
        request, source, backend = await self._parse(fields, upload, ctx)
        request = replace(request, long_form=False, stream_format=None)  # a session has forms of its own
        return await self._found(request, source, backend, ctx)

    async def _found(
        self, request: SpeechRequest, source: VoiceSource, backend: Backend, ctx: RequestContext
    ) -> SessionVoice:
        async with self._admitted(ctx):
            voice = await backend.synthesizer.find_voice(source, ctx)
        # A clip has megabytes, and a session may last an hour.
        kept = None if isinstance(source, Clip) and not self._has_fallback else source
        return SessionVoice(request, kept, backend, voice)

    async def current(self, voice: SessionVoice, ctx: RequestContext) -> SessionVoice:
        """Return the voice as it is now: it may have been deleted, fitted or stored anew, or its backend may have gone.

        Raises:
            VoiceNotFound: it was deleted.
        """
        backend, source = self._backend_for(ctx), voice.source
        if isinstance(source, VoiceRecord):
            source = await backend.voices.find_stored(source.id)
        elif isinstance(source, VoiceMix):
            found = [await backend.voices.find_stored(record.id) for record in source.records]
            source = replace(source, records=tuple(found))
        if source is None or (backend is voice.backend and source == voice.source):
            ctx.root.tag(vocabulary.VOICE_CACHE, "hit")
            return voice
        return await self._found(voice.request, source, backend, ctx)

    async def follow(
        self,
        voice: SessionVoice,
        pieces: AsyncIterator[str],
        ctx: RequestContext,
        deadline_s: float,
        timestamps: str | None = None,
    ) -> AsyncGenerator[FollowedPart, None]:
        """Yield the audio of an utterance whose text comes in pieces.

        Args:
            voice: the session's.
            pieces: as `speech.incremental` gives them out.
            ctx: the utterance.
            deadline_s: seconds for each piece, from when it is known.
            timestamps: what gets a time; offsets are positions in the piece.

        Raises:
            SpeechError: a piece can't be said, or a stage failed.
        """
        request = voice.request
        self._tag(request, ctx)

        async def utterances() -> AsyncIterator[Utterance]:
            length, script = 0, GrowingScript()
            code, spoken = request.dialect.code, voice.backend.engine.capabilities.dialects
            held: list[Utterance] = []  # a text may begin in another script: nothing is said until one of its own comes
            async for piece in pieces:
                text = check_text(piece)
                _refuse_pauses(text)
                if not length:
                    ctx.first_piece_s = ctx.elapsed_s
                    ctx.root.annotate(vocabulary.FIRST_PIECE)
                length += len(text) + (length > 0)
                script.add(text)
                ctx.root.tags({vocabulary.TEXT_LENGTH: length, vocabulary.TEXT_SCRIPT: script.script})
                utterance = replace(request.utterance, text=text)
                fits = script.check(code, spoken, self._registry, complete=False)
                voice.backend.engine.check(utterance)
                held.append(utterance)
                if fits:
                    for utterance in held:
                        await ctx.extend_deadline(ctx.elapsed_s + deadline_s)
                        yield utterance
                    held.clear()
            script.check(code, spoken, self._registry)

        follower = voice.backend.follower
        parts = follower.follow(utterances(), voice.voice, ctx, lambda: self._admitted(ctx), timestamps)
        async with aclosing(parts):
            async for part in parts:
                ctx.audio_s += len(part.audio.samples) / voice.sample_rate
                yield part

    async def follow_by_token(
        self, voice: SessionVoice, fragments: AsyncIterator[str], ctx: RequestContext, deadline_s: float, idle_s: float
    ) -> AsyncGenerator[FollowedPart, None]:
        """Yield the audio of an utterance that the engine says while its text comes, as one sentence.

        Args:
            voice: the session's.
            fragments: the text, cut anywhere.
            ctx: the utterance.
            deadline_s: seconds for what can be said of the text so far, each time.
            idle_s: the longest time without any new text.

        Raises:
            SpeechError: the text can't be said or does not come, the engine can't do it, or a stage failed.
        """
        request, engine = voice.request, voice.backend.engine
        self._tag(request, ctx)
        said = ""

        async def checked() -> AsyncIterator[str]:
            nonlocal said
            look_at = 1  # characters: a text is looked at as a whole each time that it has doubled
            bracket = 0  # the position from which a pause may begin that was not looked for
            async for fragment in fragments:
                said += fragment
                if len(said) <= MAX_LONG_TEXT:  # a longer one is refused below, and not worth a look
                    if not _CLOSING_BRACKETS.isdisjoint(fragment):
                        _refuse_pauses(said[bracket:])
                        bracket = max(0, said.rfind("["), said.rfind("［"))
                    if len(said) >= look_at:
                        look_at = 2 * len(said)
                        self._look_at(said, request, engine, complete=False)
                yield fragment
            self._look_at(said, request, engine, complete=True)
            ctx.root.tags({vocabulary.TEXT_LENGTH: len(said.strip()), vocabulary.TEXT_SCRIPT: script_of(said)})

        parts = voice.backend.follower.follow_live(
            IncomingText(checked(), idle_s),
            request.utterance,
            voice.voice,
            ctx,
            lambda: self._admitted(ctx),
            deadline_s,
        )
        async with aclosing(parts):
            async for part in parts:
                ctx.audio_s += len(part.audio.samples) / voice.sample_rate
                yield part

    def _look_at(self, said: str, request: SpeechRequest, engine: Engine, complete: bool) -> None:
        """Refuse a text with a pause, and one in another script: when it is `complete`, or long enough to tell."""
        _refuse_pauses(said)
        check_script(said, request.dialect.code, engine.capabilities.dialects, self._registry, complete=complete)

    def _tag(self, request: SpeechRequest, ctx: RequestContext) -> None:
        tag_dialect(ctx, request.dialect, request.dialect_source)
        ctx.root.tag(vocabulary.REQUEST_MODE, request.utterance.mode)
        ctx.dialect, ctx.mode = request.dialect.tag, request.utterance.mode


def _refuse_pauses(text: str) -> None:
    if pauses.has_any(text):
        raise InvalidInput(
            "A session takes no pauses in its text: whoever writes it can wait, or play silence. Leave `[pause:…]` "
            "out.",
            param="text",
            code="pause_in_session",
        )
