"""Stored voices in requests: a real store in a folder, and a pipeline that counts how often a clip is listened to."""

import asyncio

import numpy as np
import pytest

from deployments.ingress.context import RequestContext
from deployments.ingress.stage_clients import Result
from deployments.ingress.stored_voices import StoredVoices
from deployments.ingress.voice_cache import VoiceCache
from deployments.wire import Reply
from engines.contract import Capabilities
from speech.audio import decode
from speech.dialects import DIALECTS
from speech.errors import VoiceNotFound, VoiceStoreUnavailable
from tests.helpers.serving import tone
from tracing import Tracer, vocabulary
from voices import ClipFacts, VoiceRecord, Voices, VoiceSettings
from voices.enrolment import parse

CLIP = tone()


class Pipeline:
    def __init__(self) -> None:
        self.heard: list[tuple[bytes, str | None]] = []

    async def extract(self, upload: bytes, transcript: str | None, run: RequestContext) -> tuple[Result, Result]:
        self.heard.append((upload, transcript))
        return None, Result(Reply([], {"embedding": np.full(3, len(self.heard), np.float32)}), None)


async def unpack(parts):
    return parts


class Ingress:
    """One ingress replica's part in it."""

    def __init__(self, folder, version: str = "1", cache_mb: float = 1.0) -> None:
        can = Capabilities("fake", version, 24_000, frozenset({"en-US"}), frozenset({"fast"}), (16_000,))
        self.pipeline = Pipeline()
        self.store = Voices.open(VoiceSettings(url=str(folder)))
        self.stored = StoredVoices(self.store, self.pipeline, VoiceCache(can, unpack, cache_mb), can, unpack)

    def enrol(self) -> VoiceRecord:
        enrolment = parse(
            {"name": "anna", "dialect": "en-US", "consent": "I agree.", "prompt_text": "what it says"}, DIALECTS
        )
        return self.store.create(enrolment, CLIP, ClipFacts.of(decode(CLIP, seconds=(3, 15)), CLIP))[0]

    def use(self) -> tuple[float, dict]:
        """The voice's first number, and the tags of the request's root."""
        tracer = Tracer("cosyvoice3-api")
        root = tracer.server("POST /api/generate", parent=None)
        run = RequestContext(tracer, root, 60.0, root.start_ns)

        async def request():
            return await self.stored.use(await self.stored.find("anna"), run)

        voice = asyncio.run(request())
        return float(voice.arrays["embedding"][0]), run.finish(200)[0].tags


def test_it_is_listened_to_once_whoever_asks(tmp_path):
    first, second = Ingress(tmp_path), Ingress(tmp_path)
    first.enrol()
    found = [ingress.use() for ingress in (first, first, second, second)]
    assert [number for number, _ in found] == [1, 1, 1, 1]
    assert [tags[vocabulary.VOICE_CACHE] for _, tags in found] == ["miss", "hit", "stored", "hit"]
    assert first.pipeline.heard == [(CLIP, "what it says")] and second.pipeline.heard == []
    assert all(tags[vocabulary.AUDIO_SAMPLE_RATE] == 24_000 for _, tags in found)


def test_without_a_cache_the_store_is_asked_each_time(tmp_path):
    ingress = Ingress(tmp_path, cache_mb=0)
    ingress.enrol()
    assert [ingress.use()[1][vocabulary.VOICE_CACHE] for _ in range(3)] == ["miss", "stored", "stored"]


def test_another_version_of_the_engine_finds_the_voice_anew_in_its_clip(tmp_path):
    old = Ingress(tmp_path)
    old.enrol()
    old.use()
    new = Ingress(tmp_path, version="2")
    assert [new.use()[1][vocabulary.VOICE_CACHE] for _ in range(2)] == ["miss", "hit"]
    assert new.pipeline.heard == [(CLIP, "what it says")]
    assert Ingress(tmp_path).use()[1][vocabulary.VOICE_CACHE] == "stored", "the old version's are still there"


def test_a_voice_stored_anew_is_not_taken_for_the_one_before(tmp_path):
    ingress = Ingress(tmp_path)
    record = ingress.enrol()
    ingress.use()
    ingress.store.delete(record)
    with pytest.raises(VoiceNotFound):
        ingress.use()
    assert ingress.enrol().id == record.id, "the same content"
    assert ingress.use()[1][vocabulary.VOICE_CACHE] == "miss"


def test_what_can_not_be_kept_is_counted_and_the_request_goes_on(tmp_path, monkeypatch, caplog):
    ingress = Ingress(tmp_path, cache_mb=0)
    ingress.enrol()

    def refuse(*_):
        raise VoiceStoreUnavailable("the disk is full")

    monkeypatch.setattr(ingress.store, "keep_arrays", refuse)
    assert [ingress.use()[0] for _ in range(2)] == [1, 2]
    assert ingress.stored.counters() == {
        "stored_voices_used": 2,
        "stored_voices_extracted": 2,
        "stored_voices_not_kept": 2,
    }
    assert "could not be kept" in caplog.text and "anna" not in caplog.text


def test_where_nothing_is_stored_it_says_so():
    nowhere = StoredVoices(None, Pipeline(), None, Capabilities("fake", "1", 1, frozenset(), frozenset(), ()), unpack)
    with pytest.raises(VoiceNotFound, match="voices.url"):
        asyncio.run(nowhere.find("anna"))
