"""Stored voices as requests use them: found in memory, else in the store, else in their clip once more.

What an engine has found in a clip is kept beside it, by the engine's name and version. Another engine, or another
version of it, finds it anew in the clip, with the first request that uses the voice, and keeps that too.
"""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import Awaitable
from typing import Protocol

from deployments.ingress.context import RequestContext
from deployments.ingress.stage_clients import Made, Result, Unpack, unpacked
from deployments.ingress.voice_cache import KeptVoice, VoiceCache
from deployments.safe_traceback import safe_traceback
from engines.contract import Capabilities
from speech.errors import SpeechError, VoiceNotFound
from tracing import vocabulary
from voices import VoiceRecord, Voices

log = logging.getLogger("ray.serve")


class Pipeline(Protocol):
    def extract(
        self, upload: bytes, transcript: str | None, run: RequestContext
    ) -> Awaitable[tuple[Result, Result]]: ...


class StoredVoices:
    """One ingress replica's.

    Args:
        store: None where none is configured.
        cache: the replica's memory, which holds voices of both kinds.
        unpack: takes a reply's arrays from where they wait: `ArrayStore.unpack`.
    """

    def __init__(
        self, store: Voices | None, pipeline: Pipeline, cache: VoiceCache, engine: Capabilities, unpack: Unpack
    ) -> None:
        self.store = store
        self._pipeline = pipeline
        self._cache = cache
        self._engine = (engine.name, engine.version)
        self._unpack = unpack
        self.counts = dict.fromkeys(("used", "extracted", "not_kept"), 0)

    async def find(self, name_or_id: str) -> VoiceRecord:
        """Raises VoiceNotFound, also where nothing is stored here at all."""
        if self.store is None:
            raise VoiceNotFound(
                "No voices are stored here: this service runs without a place for them. Send the clip "
                "along instead, or ask whoever runs it to set `voices.url`.",
                param="voice",
                code="voices_off",
            )
        return await to_thread(self.store.find, name_or_id)

    async def use(self, record: VoiceRecord, run: RequestContext) -> Made:
        """The voice as GENERATE_MEL takes it."""
        self.counts["used"] += 1
        run.root.tags(_about(record))
        # An enrolment's folder is nobody else's: what is stored anew under the same id is another one.
        key = b"stored:" + record.folder.encode()
        if kept := self._cache.find(key):
            run.root.tag(vocabulary.VOICE_CACHE, "hit")
            return kept
        if arrays := await to_thread(self.store.arrays, record.id, self._engine):
            run.root.tag(vocabulary.VOICE_CACHE, "stored")
            kept = KeptVoice(arrays)
        else:
            run.root.tag(vocabulary.VOICE_CACHE, "miss")
            kept = await self._extracted(record, run)
        self._cache.keep(key, kept)
        return kept

    async def _extracted(self, record: VoiceRecord, run: RequestContext) -> KeptVoice:
        clip = await to_thread(self.store.clip, record.id)
        _, voice = await self._pipeline.extract(clip, record.transcript, run)
        kept = KeptVoice.copied(await unpacked(voice, self._unpack))
        self.counts["extracted"] += 1
        try:
            await to_thread(self.store.keep_arrays, record.id, self._engine, kept.arrays)
        except SpeechError as error:  # this request has its voice all the same; the next one finds it anew
            self.counts["not_kept"] += 1
            log.warning("what was found in a stored voice could not be kept: %s", safe_traceback(error))
        return kept

    def counters(self) -> dict[str, int]:
        """`used`: requests with a stored voice; `extracted`: those that found it in its clip, `not_kept` of them could
        not store what they found."""
        return {f"stored_voices_{name}": count for name, count in self.counts.items()}


def _about(record: VoiceRecord) -> dict:
    """What the clip is like is said by the root: the stage that would say it mostly has no span."""
    return {
        vocabulary.AUDIO_SAMPLE_RATE: record.clip.sample_rate,
        vocabulary.AUDIO_DURATION: record.clip.seconds,
        vocabulary.AUDIO_FORMAT: record.clip.format,
    }
