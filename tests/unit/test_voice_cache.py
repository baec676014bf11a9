"""The voice cache by itself: what it keeps, for how long, and whose."""

import asyncio
import gc
import itertools
import logging
import os
import random
import threading

import numpy as np
import pytest
import ray.exceptions
import yaml
from pydantic import ValidationError

from deployments.arrays import LARGE_BYTES, ArrayStore, InputLost
from deployments.ingress.peer_clocks import PeerClocks
from deployments.ingress.stage_clients import TtsClient
from deployments.ingress.voice_cache import HASH_ASIDE_BYTES, MB, OVERHEAD_BYTES, CachedVoice, VoiceCache
from deployments.settings import GraphConfig, LiveApi
from deployments.wire import ClipReply, MelReply, StageReply, VoiceReply
from engines.contract import Capabilities, Utterance
from speech.errors import StageUnavailable
from tests.helpers.serving import CLUSTER
from tests.served.test_failures import new_run

CAN = Capabilities("engine", "1", 24_000, frozenset(), frozenset(), ())
KB = 1000
SAID = Utterance("a", "en-US")


async def as_they_are(parts):
    return parts


def reply(value: float = 0.0, size: int = 100 * KB, engine=("engine", "1")) -> VoiceReply:
    """embedding-service's: a voice of `size` bytes, overhead included."""
    return VoiceReply({"mel": np.full(size - OVERHEAD_BYTES, value, np.uint8)}, engine)


def clip(**tags) -> ClipReply:
    """audio-service's."""
    return ClipReply({}, {}, None, tags)


def cache(limit_kb: float = 1000, unpack=as_they_are, engine: Capabilities = CAN) -> VoiceCache:
    return VoiceCache(engine, unpack, limit_kb / KB)


async def keep(
    voices: VoiceCache, upload: bytes, voice: VoiceReply | None = None, transcript: str | None = None
) -> None:
    voices.add_later(await voices.key(upload, transcript), clip(), voice or reply())
    await settled(voices)


async def settled(voices: VoiceCache) -> None:
    while voices._adding:
        await asyncio.gather(*voices._adding)


async def has(voices: VoiceCache, *uploads: bytes) -> list[bool]:
    """Asked without counting, and without making any of them the last one used."""
    return [await voices.key(upload, None) in voices._voices for upload in uploads]


def test_those_not_asked_for_the_longest_go_first():
    async def scenario():
        voices = cache(300)
        for upload in (b"a", b"b", b"c"):
            await keep(voices, upload)
        assert voices.find(await voices.key(b"a", None)) is not None
        await keep(voices, b"d")
        assert await has(voices, b"a", b"b", b"c", b"d") == [True, False, True, True]
        await keep(voices, b"e", reply(size=200 * KB))
        assert await has(voices, b"a", b"b", b"c", b"d", b"e") == [False, False, False, True, True], "two for one"
        assert voices.counters() == {
            "hits": 1,
            "misses": 0,
            "evictions": 3,
            "refused": 0,
            "failed": 0,
            "voices": 2,
            "bytes": 300 * KB,
            "limit_bytes": 300 * KB,
        }

    asyncio.run(scenario())


def test_the_size_is_that_of_all_arrays_and_what_is_around_them():
    voice = CachedVoice({"mel": np.zeros((50, 80), np.float32), "tokens": np.zeros(25, np.int64)})
    assert voice.nbytes == 16_000 + 200 + OVERHEAD_BYTES

    async def scenario():
        voices = cache(1000)
        chance = random.Random(3)
        sizes = [chance.randrange(3 * KB, 400 * KB) for _ in range(200)]
        for number, size in enumerate(sizes):
            await keep(voices, str(number).encode(), reply(size=size))
            assert voices.counters()["bytes"] == sum(kept.nbytes for kept in voices._voices.values()) <= 1000 * KB
        counts = voices.counters()
        assert counts["voices"] + counts["evictions"] == 200 and counts["voices"] > 1
        newest = itertools.takewhile(lambda total: total <= 1000 * KB, itertools.accumulate(reversed(sizes)))
        assert counts["voices"] == len(list(newest)), "exactly as many of the newest as have room"

    asyncio.run(scenario())


def test_a_voice_larger_than_the_cache_pushes_nobody_out():
    async def scenario():
        voices = cache(150)
        await keep(voices, b"a")
        await keep(voices, b"b", reply(size=150 * KB + 1))
        assert await has(voices, b"a", b"b") == [True, False]
        assert voices.counters()["refused"] == 1 and voices.counters()["evictions"] == 0

    asyncio.run(scenario())


def test_a_voice_comes_back_only_for_all_that_made_it():
    """Every mixture of near-equal clips, transcripts and engines, each with a voice of its own."""
    chance = random.Random(11)
    clips = [b"", b"=", b"a", b"ab", b"\0", b"\0\0", *(chance.randbytes(40) for _ in range(4))]
    clips += [clips[-1][:-1], clips[-1] + b"\0", bytes([clips[-1][0] ^ 1]) + clips[-1][1:], b"\0" * 7 + b"\1a"]
    said = [None, "", "=", "a", "ab", "\0", "b", "a=", "你好", "你 好", "\0\0\0\0\0\0\0\1a"]
    engines = [("e", "1"), ("e1", ""), ("e", "11"), ("", "e1"), ("e", "1=")]

    async def scenario():
        store, expected = {}, {}
        for number, (name, version) in enumerate(engines):
            voices = cache(10_000, engine=Capabilities(name, version, 1, frozenset(), frozenset(), ()))
            for upload, transcript in itertools.product(clips, said):
                key = await voices.key(upload, transcript)
                assert voices.find(key) is None, "nothing else may have its key"
                voices.add_later(key, clip(), reply(len(expected) % 251, 4 * KB, (name, version)))
                await settled(voices)
                assert key not in store, "nor that of another engine"
                store[key] = number
                expected[number, upload, transcript] = len(expected) % 251
            found = {
                (upload, transcript): voices.find(await voices.key(upload, transcript)).arrays["mel"]
                for upload, transcript in itertools.product(clips, said)
            }
            for asked, mel in found.items():
                assert (mel == expected[number, *asked]).all()
        assert len(store) == len(engines) * len(clips) * len(said)

    asyncio.run(scenario())


def test_a_large_upload_is_hashed_beside_the_event_loop_and_alike(monkeypatch):
    upload = os.urandom(HASH_ASIDE_BYTES)
    threads = []
    real = asyncio.to_thread

    async def to_thread(function, *args):
        def noted():
            threads.append(threading.current_thread())
            return function(*args)

        return await real(noted)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)

    async def scenario():
        voices = cache()
        aside = await voices.key(upload, "x")
        monkeypatch.setattr("deployments.ingress.voice_cache.HASH_ASIDE_BYTES", 2 * HASH_ASIDE_BYTES)
        assert await voices.key(upload, "x") == aside and len(aside) == 32

    asyncio.run(scenario())
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_while_it_is_off_nothing_is_looked_up_kept_or_counted():
    async def scenario():
        voices = cache(0)
        key = await voices.key(b"a", None)
        assert key is None and voices.find(key) is None
        voices.add_later(key, clip(), reply())
        assert not voices._adding and set(voices.counters().values()) == {0}

    asyncio.run(scenario())


def test_its_size_changes_while_it_runs():
    async def scenario():
        voices = cache(300)
        for upload in (b"a", b"b", b"c"):
            await keep(voices, upload)
        voices.configure(0.25)
        assert await has(voices, b"a", b"b", b"c") == [False, True, True]
        under_way = await voices.key(b"d", None)
        voices.configure(0)
        assert voices.counters() | {"evictions": 3, "voices": 0, "bytes": 0, "limit_bytes": 0} == voices.counters()
        assert await voices.key(b"b", None) is None
        voices.add_later(under_way, clip(), reply())  # of a request that began before
        await settled(voices)
        assert voices.counters()["refused"] == 1 and voices.counters()["voices"] == 0
        voices.configure(1)
        await keep(voices, b"e")
        assert voices.counters()["voices"] == 1 and voices.counters()["limit_bytes"] == MB

    asyncio.run(scenario())


def test_what_is_kept_is_a_copy_that_holds_no_file_open():
    shelf = ArrayStore("here", lambda: False)
    mel = np.arange(LARGE_BYTES, dtype=np.float32).reshape(100, -1)
    small = np.arange(3)

    async def scenario():
        voices = cache(1000, shelf.unpack_all)
        gc.collect()  # what others have left open is not to be closed meanwhile
        before = len(os.listdir("/proc/self/fd"))
        found = VoiceReply(shelf.pack_all({"mel": mel, "small": small}), ("engine", "1"))
        key = await voices.key(b"a", None)
        voices.add_later(key, clip(**{"audio.sample_rate": 8}), found)
        await settled(voices)
        shelf.close()
        assert len(os.listdir("/proc/self/fd")) == before
        small[:] = 0
        kept = voices.find(key)
        assert np.array_equal(kept.arrays["mel"], mel) and kept.arrays["mel"].dtype == np.float32
        assert kept.arrays["small"].tolist() == [0, 1, 2] and kept.clip_tags == {"audio.sample_rate": 8}
        assert "arrays" not in repr(kept), "a transcript may be among them"

    asyncio.run(scenario())


def test_keeping_waits_until_the_request_has_gone_on():
    async def scenario():
        began, released = asyncio.Event(), asyncio.Event()

        async def slow(parts):
            began.set()
            await released.wait()
            return parts

        voices = cache(unpack=slow)
        key = await voices.key(b"a", None)
        voices.add_later(key, clip(), reply())
        assert not began.is_set(), "nothing of it runs before the caller's next await"
        await began.wait()
        assert voices.find(key) is None
        released.set()
        await settled(voices)
        assert voices.find(key) is not None

    asyncio.run(scenario())


def test_two_requests_of_one_new_voice_keep_it_once():
    async def scenario():
        taken = []

        async def slow(parts):
            taken.append(parts)
            await asyncio.sleep(0)
            return parts

        voices = cache(unpack=slow)
        key = await voices.key(b"a", None)
        for _ in range(2):
            voices.add_later(key, clip(), reply())
        await settled(voices)
        voices.add_later(key, clip(), reply())
        await settled(voices)
        assert len(taken) == 2, "the third finds it there"
        assert voices.counters() | {"voices": 1, "bytes": 100 * KB, "evictions": 0} == voices.counters()

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [InputLost("gone"), ray.exceptions.OwnerDiedError("x", "y", "z"), ValueError("你好")])
def test_a_voice_that_is_lost_before_it_is_kept_is_counted(error, caplog):
    async def lost(parts):
        raise error

    async def scenario():
        voices = cache(unpack=lost)
        with caplog.at_level(logging.WARNING):
            await keep(voices, b"a", transcript="a canary")
        assert voices.counters() | {"failed": 1, "voices": 0} == voices.counters()
        assert voices.find(await voices.key(b"a", "a canary")) is None

    asyncio.run(scenario())
    assert type(error).__name__ in caplog.text
    assert "canary" not in caplog.text and "你好" not in caplog.text, "what failed is named, not what it said"


@pytest.mark.parametrize("engine", [("engine", "2"), ("other", "1"), None])
def test_a_voice_of_another_engine_than_the_ingress_knows_is_not_kept(engine):
    async def scenario():
        voices = cache()
        await keep(voices, b"a", reply(engine=engine))
        assert voices.counters() | {"refused": 1, "voices": 0} == voices.counters()

    asyncio.run(scenario())


def kept_voice_in(answers) -> tuple[list[dict], object]:
    """Return the input of tts-service for a kept voice while it answers so, and the request's context."""
    handed, run = [], new_run()
    client = TtsClient(None)
    client.arrays, client.clocks = ArrayStore("here", lambda: False), PeerClocks("here")
    mel = np.full(LARGE_BYTES, 7, np.uint8)

    async def remote(carrier, utterance, parts):
        handed.append(parts)
        await asyncio.sleep(0)
        client.arrays.close()  # as after HOLD_S
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert (mel == 7).all() and parts["embedding"].tolist() == [1, 2]
        return answer

    client.remote = remote
    voice = CachedVoice({"mel": mel, "embedding": np.array([1, 2])})
    try:
        asyncio.run(client.generate(SAID, voice, run))
    finally:
        client.arrays.close()
    return handed, run


@pytest.mark.parametrize(
    "first, kind",
    [
        (ray.exceptions.ActorDiedError(), "CLIENT"),
        (StageReply([], error=StageUnavailable("lost"), input_lost=True), None),
    ],
)
def test_a_kept_voice_is_handed_out_anew_when_a_replica_or_an_array_is_lost(first, kind):
    handed, run = kept_voice_in([first, StageReply([], MelReply({}, 1.0))])
    assert len(handed) == 2 and handed[0]["mel"].inode != handed[1]["mel"].inode
    assert [span.kind for span in run.finish(200)[1:]] == ([kind] if kind else [])


def test_a_kept_voice_that_stays_lost_is_a_503():
    with pytest.raises(StageUnavailable, match="tts-service"):
        kept_voice_in([StageReply([], error=StageUnavailable("lost"), input_lost=True)] * 2)


def test_its_size_is_checked():
    with pytest.raises(ValidationError, match="voice_cache_mb"):
        GraphConfig(voice_cache_mb=-1)
    with pytest.raises(ValidationError, match="unknown key 'voice_cache' in GraphConfig; did you mean 'voice_cache_mb"):
        GraphConfig(voice_cache=1)
    for value in (-1, "large", float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="voice_cache_mb"):
            LiveApi(voice_cache_mb=value)
    assert GraphConfig().api().voice_cache_mb == 0, "off, unless a config says so"


@pytest.mark.parametrize("file", ["serve.cpu.yaml", "serve.gpu.yaml", "serve.cosyvoice3.yaml"])
def test_the_projects_configs_have_it_on(file):
    args = yaml.safe_load((CLUSTER / file).read_text())["applications"][0]["args"]
    assert GraphConfig(**args).api().voice_cache_mb >= 16
