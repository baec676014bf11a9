"""Stored voices in requests: a real store in a folder, and a pipeline that counts how often a clip is listened to."""

import asyncio

import numpy as np
import pytest

from deployments.arrays import ArrayStore
from deployments.ingress.context import RequestContext
from deployments.ingress.stage_result import StageResult
from deployments.ingress.voice_cache import VoiceCache
from deployments.ingress.voice_resolver import Clip, VoiceResolver
from deployments.wire import ClipReply, VoiceReply
from engines.contract import Capabilities, FitOutcome, Voice
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
        self.for_fits: list[bool] = []

    async def speaker(self, upload: bytes, transcript: str | None, run: RequestContext, *, for_fit=False) -> tuple:
        self.heard.append((upload, transcript))
        self.for_fits.append(for_fit)
        clip = ClipReply({}, {}, transcript, {vocabulary.AUDIO_SAMPLE_RATE: 24_000})
        voice = VoiceReply({"embedding": np.full(3, len(self.heard), np.float32)}, ("fake", "1"))
        return StageResult(clip, None), StageResult(voice, None)


ARRAYS = ArrayStore("here", lambda: False)


class Ingress:
    """One ingress replica's part in it."""

    def __init__(self, folder, version: str = "1", cache_mb: float = 1.0, fits: bool = False) -> None:
        can = Capabilities(
            "fake", version, 24_000, frozenset({"en-US"}), frozenset({"fast"}), (16_000,), fits_voices=fits
        )
        self.pipeline = Pipeline()
        self.store = Voices.open(VoiceSettings(url=str(folder)))
        cache = VoiceCache(can, ARRAYS.unpack_all, cache_mb)
        self.voices = VoiceResolver(self.pipeline, can, cache, self.store, ARRAYS)

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
            return await self.voices.resolve(await self.voices.find_stored("anna"), run)

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
    assert ingress.voices.counters() == {
        "stored_voices_used": 2,
        "stored_voices_fitted": 0,
        "stored_voices_extracted": 2,
        "stored_voices_not_kept": 2,
    }
    assert "could not be kept" in caplog.text and "anna" not in caplog.text


def test_where_nothing_is_stored_it_says_so():
    can = Capabilities("fake", "1", 1, frozenset(), frozenset(), ())
    nowhere = VoiceResolver(Pipeline(), can, VoiceCache(can, ARRAYS.unpack_all), None, ARRAYS)
    with pytest.raises(VoiceNotFound, match="voices.url"):
        asyncio.run(nowhere.find_stored("anna"))


def test_a_clip_is_listened_to_once_and_then_comes_from_the_cache(tmp_path):
    """The root of a hit says what the clip is like, because the stage that would say it has no span."""
    ingress = Ingress(tmp_path)

    async def scenario() -> list[dict]:
        tags = []
        for _ in range(2):
            root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
            run = RequestContext(Tracer("cosyvoice3-api"), root, 60.0, root.start_ns)
            await ingress.voices.resolve(Clip(CLIP, "what it says"), run)
            await asyncio.gather(*ingress.voices.cache._adding)
            tags.append(run.finish(200)[0].tags)
        return tags

    first, second = asyncio.run(scenario())
    assert (first[vocabulary.VOICE_CACHE], second[vocabulary.VOICE_CACHE]) == ("miss", "hit")
    assert second[vocabulary.AUDIO_SAMPLE_RATE] == 24_000 and vocabulary.AUDIO_SAMPLE_RATE not in first
    assert ingress.pipeline.heard == [(CLIP, "what it says")]


def test_a_clip_that_is_to_be_fitted_is_not_taken_from_the_cache_of_those_that_are_not(tmp_path):
    """Embedding-service finds more in it: a fit has no clip."""
    ingress = Ingress(tmp_path)

    async def scenario() -> list[str]:
        found = []
        for for_fit in (False, True, False, True):
            root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
            run = RequestContext(Tracer("cosyvoice3-api"), root, 60.0, root.start_ns)
            await ingress.voices.resolve(Clip(CLIP, "what it says", for_fit), run)
            await asyncio.gather(*ingress.voices.cache._adding)
            found.append(run.finish(200)[0].tags[vocabulary.VOICE_CACHE])
        return found

    assert asyncio.run(scenario()) == ["miss", "miss", "hit", "hit"]
    assert ingress.pipeline.for_fits == [False, True]


def fit(ingress: Ingress, number: float) -> None:
    work = ingress.store.fits.take(("fake", "1"), "service")
    voice = Voice({"embedding": np.full(3, number, np.float32)})
    ingress.store.fits.finish(work, FitOutcome(voice, True, "", "all_steps", 8, 0.5, 0.3, 1.0))


@pytest.mark.parametrize("cache_mb, second", [(1.0, "hit"), (0.0, "stored")])
def test_a_request_uses_the_fitted_voice_as_soon_as_there_is_one_and_says_so(tmp_path, cache_mb, second):
    first, other = (Ingress(tmp_path, cache_mb=cache_mb, fits=True) for _ in range(2))
    record = first.enrol()
    number, tags = first.use()
    assert (number, tags[vocabulary.VOICE_FIT]) == (1, "steered")
    fit(first, 7)
    for ingress in (first, other):
        found = [ingress.use() for _ in range(2)]
        assert [number for number, _ in found] == [7, 7]
        assert [tags[vocabulary.VOICE_CACHE] for _, tags in found] == ["stored", second]
        assert {tags[vocabulary.VOICE_FIT] for _, tags in found} == {"fitted"}
    assert other.pipeline.heard == [] and other.voices.counters()["stored_voices_fitted"] == 2
    first.store.fits.ask(record, ("fake", "1"), again=True)
    assert other.use()[0] == 7, "until the second fit ends"
    fit(first, 8)
    assert other.use()[0] == 8, "a cached voice of an earlier fit is not used"


def test_an_engine_that_fits_no_voices_says_nothing_of_it(tmp_path):
    ingress = Ingress(tmp_path)
    ingress.enrol()
    assert vocabulary.VOICE_FIT not in ingress.use()[1]


def test_a_fitted_voice_that_can_not_be_read_leaves_the_request_the_steered_one(tmp_path, monkeypatch, caplog):
    ingress = Ingress(tmp_path, fits=True)
    ingress.enrol()
    fit(ingress, 7)
    [file] = tmp_path.glob("fits/*/voice.npz")
    file.write_bytes(b"damaged")
    assert ingress.use()[1][vocabulary.VOICE_FIT] == "steered"

    def refuse(*_):
        raise VoiceStoreUnavailable("the disk is gone")

    monkeypatch.setattr(ingress.store.fits, "result", refuse)
    number, tags = ingress.use()
    assert (number, tags[vocabulary.VOICE_FIT]) == (1, "steered") and "could not be read" in caplog.text
