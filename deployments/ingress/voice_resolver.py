"""Turns the voice that a request names into one that GENERATE_MEL takes: from the cache, the store, or the clip.

The arrays that an engine has found in a stored clip are stored beside it, by the engine's name and version. Another
engine, or another version of it, finds them anew with the first request that uses the voice, and stores those too.
"""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.arrays import ArrayStore
from deployments.ingress.context import RequestContext
from deployments.ingress.speech_graph import SpeechGraph
from deployments.ingress.stage_result import VoiceRef, unpacked
from deployments.ingress.voice_cache import CachedVoice, VoiceCache
from deployments.safe_traceback import safe_traceback
from engines.contract import Capabilities, Voice
from speech.errors import InvalidInput, SpeechError, VoiceNotFound
from tracing import vocabulary
from voices import VoiceRecord, Voices, mix

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Clip:
    """A clip that came with the request, and what is said in it, where known."""

    upload: bytes
    transcript: str | None
    for_fit: bool = False  #: True: the voice will be fitted, without the clip


@dataclass(frozen=True)
class VoiceMix:
    """Stored voices with their weights, to be mixed."""

    records: tuple[VoiceRecord, ...]
    weights: tuple[float, ...]
    transcript: None = None  #: a mix has no words of its own

    @property
    def dialect(self) -> str | None:
        """The dialect of all members; None where they differ."""
        found = {record.dialect for record in self.records}
        return found.pop() if len(found) == 1 else None


Mixer = Callable[[Sequence[Voice], Sequence[float]], Voice]
StoredVoice = VoiceRecord | VoiceMix
VoiceSource = Clip | StoredVoice | CachedVoice  #: where a request's voice is to be found, or the voice itself


@dataclass(frozen=True)
class _Found:
    """A stored voice, the value of `voice.cache` that says where it was, and True if it is the fitted one."""

    voice: CachedVoice
    cache: str
    fitted: bool = False


class VoiceResolver:
    """Resolves voices for one engine, in one ingress replica.

    Args:
        graph: finds a voice in a clip.
        engine: the graph's engine; a voice is only valid for the version that made it.
        cache: the replica's cache, for voices of both kinds.
        store: the stored voices; None if none are stored here.
        arrays: fetches the arrays of the stages' replies.
        mixer: mixes voices (`MixingEngine.mix`); None where the engine can't.
    """

    def __init__(
        self,
        graph: SpeechGraph,
        engine: Capabilities,
        cache: VoiceCache,
        store: Voices | None,
        arrays: ArrayStore,
        mixer: Mixer | None = None,
    ) -> None:
        self.cache = cache
        self._graph = graph
        self._engine = (engine.name, engine.version)
        self._store = store
        self._arrays = arrays
        self._mixer = mixer
        self._fits_voices = engine.fits_voices
        self._counts = dict.fromkeys(("used", "fitted", "extracted", "not_kept"), 0)

    async def find_stored(self, name_or_id: str) -> VoiceRecord:
        """Return a stored voice's record. Raises VoiceNotFound, also if nothing is stored here at all."""
        return await to_thread(self._require_store().find, name_or_id)

    async def find_mix(self, members: Sequence[mix.Member]) -> StoredVoice:
        """Return the records of a mix's members; that of a single member, which needs no mixing.

        Raises:
            VoiceNotFound: a member is not stored; the message says which one.
            InvalidInput: the engine can't mix voices, or two members are the same voice.
        """
        if len(members) > 1 and self._mixer is None:
            raise InvalidInput(
                f"The running engine ({self._engine[0]}) can't mix voices: what it keeps of a voice are pieces of its "
                "clip, which have no mean. Name one stored voice.",
                param="voice",
                code="mix_unsupported",
            )
        records = []
        for number, member in enumerate(members, 1):
            try:
                records.append(await self.find_stored(member.name))
            except VoiceNotFound as error:
                if len(members) == 1 or error.code != "voice_unknown":
                    raise
                raise VoiceNotFound(
                    f"Voice {number} of the mix is not stored, by this name or id. GET /v1/audio/voices lists all.",
                    param="voice",
                    code="voice_unknown",
                ) from error
        if len({record.id for record in records}) < len(records):
            raise mix.twice()
        return records[0] if len(records) == 1 else VoiceMix(tuple(records), tuple(one.weight for one in members))

    async def resolve(self, source: VoiceSource, ctx: RequestContext) -> VoiceRef:
        """Return the voice, and tag the request's root with where it was found and what its clip is like.

        Raises:
            SpeechError: the stages' or the store's.
        """
        if isinstance(source, CachedVoice):
            return source
        if isinstance(source, Clip):
            return await self._from_clip(source, ctx)
        if isinstance(source, VoiceMix):
            return await self._mixed(source, ctx)
        return await self._from_store(source, ctx)

    async def _mixed(self, source: VoiceMix, ctx: RequestContext) -> CachedVoice:
        """Resolve the members one after the other, and mix them. The mix itself is never cached: it takes no time."""
        assert self._mixer is not None, "find_mix has refused it"
        found = [await self._stored(record, ctx) for record in source.records]
        caches = {one.cache for one in found}
        ctx.root.tags(
            {
                vocabulary.VOICE_MIX: len(found),
                vocabulary.VOICE_CACHE: next(cache for cache in ("miss", "stored", "hit") if cache in caches),
            }
        )
        self._tag_fit(all(one.fitted for one in found), ctx)
        mixed = self._mixer([Voice(one.voice.arrays) for one in found], source.weights)
        return CachedVoice(mixed.arrays)

    async def _from_clip(self, clip: Clip, ctx: RequestContext) -> VoiceRef:
        key = await self.cache.key(clip.upload, clip.transcript)
        if key is not None and clip.for_fit:
            key += b":for_fit"
        if cached := self.cache.find(key):
            # The root says what the clip is like: the stage that would say it has no span.
            ctx.root.tags({vocabulary.VOICE_CACHE: "hit", **cached.clip_tags})
            return cached
        ctx.root.tag(vocabulary.VOICE_CACHE, None if key is None else "miss")
        preprocessed, voice = await self._graph.speaker(clip.upload, clip.transcript, ctx, for_fit=clip.for_fit)
        self.cache.add_later(key, preprocessed.value, voice.value)
        return voice

    async def _from_store(self, record: VoiceRecord, ctx: RequestContext) -> CachedVoice:
        ctx.root.tags(_clip_tags(record))
        found = await self._stored(record, ctx)
        self._tag_fit(found.fitted, ctx)
        ctx.root.tag(vocabulary.VOICE_CACHE, found.cache)
        return found.voice

    def _tag_fit(self, fitted: bool, ctx: RequestContext) -> None:
        if self._fits_voices:
            ctx.voice_fit = "fitted" if fitted else "steered"
            ctx.root.tag(vocabulary.VOICE_FIT, ctx.voice_fit)

    async def _stored(self, record: VoiceRecord, ctx: RequestContext) -> _Found:
        """Find a stored voice: the fitted one, else the one in the cache, in the store, or in its clip."""
        self._counts["used"] += 1
        if self._fits_voices and (fitted := await self._fitted(record)):
            return fitted
        # An enrolment's folder belongs to it alone: a voice that is stored anew under the same id has another folder.
        key = b"stored:" + record.folder.encode()
        if cached := self.cache.find(key):
            return _Found(cached, "hit")
        if arrays := await to_thread(self._require_store().arrays, record.id, self._engine):
            found = _Found(CachedVoice(arrays), "stored")
        else:
            found = _Found(await self._extract_stored(record, ctx), "miss")
        self.cache.add(key, found.voice)
        return found

    async def _fitted(self, record: VoiceRecord) -> _Found | None:
        """Return the voice that is fitted to its speaker; None where there is none, or it can't be read now."""
        fits = self._require_store().fits
        try:
            result = await to_thread(fits.result, record, self._engine)
            if result is None:
                return None
            key = b"fitted:" + result.encode()  # each fit has a folder of its own
            found = None
            if cached := self.cache.find(key):
                found = _Found(cached, "hit", True)
            elif (arrays := await to_thread(fits.arrays, result)) is not None:
                found = _Found(CachedVoice(arrays), "stored", True)
                self.cache.add(key, found.voice)
            self._counts["fitted"] += found is not None
            return found
        except SpeechError as error:  # the steered voice serves the request
            log.warning("a fitted voice could not be read: %s", safe_traceback(error))
            return None

    async def _extract_stored(self, record: VoiceRecord, ctx: RequestContext) -> CachedVoice:
        store = self._require_store()
        upload = await to_thread(store.clip, record.id)
        _, result = await self._graph.speaker(upload, record.transcript, ctx)
        voice = CachedVoice.copy_of(await unpacked(result, self._arrays))
        self._counts["extracted"] += 1
        try:
            await to_thread(store.keep_arrays, record.id, self._engine, voice.arrays)
        except SpeechError as error:  # this request has its voice all the same; the next one finds it anew
            self._counts["not_kept"] += 1
            log.warning("what was found in a stored voice could not be kept: %s", safe_traceback(error))
        return voice

    def _require_store(self) -> Voices:
        if self._store is None:
            raise VoiceNotFound(
                "No voices are stored here: this service runs without a place for them. Send the clip "
                "along instead, or ask its operator to set `voices.url`.",
                param="voice",
                code="voices_off",
            )
        return self._store

    def counters(self) -> dict[str, int]:
        """Return how often stored voices were used.

        `used` counts requests with a stored voice, a mix once for each member, `fitted` those that had its fitted one,
        `extracted` those that found it in its clip, `not_kept` those of them that could not store what they found.
        """
        return {f"stored_voices_{name}": count for name, count in self._counts.items()}


def _clip_tags(record: VoiceRecord) -> dict[str, Any]:
    """Return what the clip is like, for the root: the stage that would say it mostly has no span."""
    return {
        vocabulary.AUDIO_SAMPLE_RATE: record.clip.sample_rate,
        vocabulary.AUDIO_DURATION: record.clip.seconds,
        vocabulary.AUDIO_FORMAT: record.clip.format,
    }
