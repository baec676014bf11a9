"""The voice cache behind the graph: what a client hears, what Zipkin shows, and what a death in between does.

Switched on in the running applications by user_config, and off again: it costs no further application.
"""

import concurrent.futures
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.helpers.serving import CLUSTER, App, sound, tone
from tests.served.test_tracing_switch import switch

VOICE_BYTES = 160_000 + 192 * 4 + 2_000  #: of the simulated engine: a mel of 10 s, an embedding, what is around them
HIT = {"post /api/generate", "generate_mel", "vocode_wav"}
MISS = HIT | {"preprocess_audio", "extract_speaker"}


def counters(app: App) -> list[dict[str, int]]:
    """The counters of the cache, for each replica of the ingress."""
    return [
        {name.removeprefix("voice_cache_"): n for name, n in one.items() if name.startswith("voice_cache_")}
        for one in app.counters()
    ]


def sized(app: App, limit_bytes: int) -> None:
    end = time.monotonic() + 30
    while {one["limit_bytes"] for one in counters(app)} != {limit_bytes}:
        assert time.monotonic() < end, "the setting never came into force"
        time.sleep(0.1)


@contextmanager
def cache_of(app: App, megabytes: float) -> Iterator[App]:
    app.wait_ready()
    switch(app, tracing=True, voice_cache_mb=megabytes)
    sized(app, int(megabytes * 1e6))
    yield app
    switch(app, tracing=True)
    sized(app, 0)


@pytest.fixture(scope="module")
def fast(apps, ray_driver):
    """With room for three voices."""
    with cache_of(apps["fast"], 0.5) as app:
        yield app


def traced(app: App, answer, spans: set[str]) -> dict[str, dict]:
    """The SERVER spans of an answer, by name, which must be these."""
    assert answer.status_code == 200, answer.text
    named = {
        span["name"]: span for span in app.trace(answer.headers["x-trace-id"], spans=len(spans)) if span.get("kind")
    }
    assert named.keys() == spans and {span["kind"] for span in named.values()} == {"SERVER"}
    return named


def test_a_repeated_voice_skips_two_stages_and_sounds_the_same(fast):
    clip = tone(hz=190)
    [before] = counters(fast)
    first = fast.post(clip, prompt_text="what is said", seed="7")
    root = traced(fast, first, MISS)["post /api/generate"]
    assert root["tags"]["voice.cache"] == "miss" and not any(name.startswith("audio.") for name in root["tags"])
    second = fast.post(clip, prompt_text="what is said", seed="7")
    spans = traced(fast, second, HIT)
    root = spans["post /api/generate"]
    assert {name: value for name, value in root["tags"].items() if name.startswith(("audio.", "voice."))} == {
        "voice.cache": "hit",
        "audio.sample_rate": "24000",
        "audio.duration": "4",
        "audio.format": "wav",
        "audio.clipping": "0",
    }
    assert {spans[name].get("parentId") for name in HIT - {"post /api/generate"}} == {root["id"]}
    assert sound(first) == sound(second)
    other = fast.post(clip, prompt_text="what is said", seed="8")
    traced(fast, other, HIT)
    assert sound(other) != sound(first), "the voice is kept, not the answer"
    [after] = counters(fast)
    assert (after["hits"] - before["hits"], after["misses"] - before["misses"]) == (2, 1)
    assert after["bytes"] == after["voices"] * VOICE_BYTES and after["failed"] == after["refused"] == 0


def test_another_transcript_or_another_byte_is_another_voice(fast):
    clip = tone(hz=200)
    changed = clip[:-2] + bytes([clip[-2] ^ 1]) + clip[-1:]
    traced(fast, fast.post(clip, prompt_text="a"), MISS)
    for upload, fields in ((changed, {"prompt_text": "a"}), (clip, {"prompt_text": "b"}), (clip, {})):
        root = traced(fast, fast.post(upload, **fields), MISS)["post /api/generate"]
        assert root["tags"]["voice.cache"] == "miss"
    traced(fast, fast.post(clip, prompt_text=""), HIT)  # an empty transcript is none


def test_the_voice_not_used_for_the_longest_goes_first(fast):
    clips = [tone(hz=300 + 20 * number) for number in range(4)]
    for clip in clips[:3]:
        fast.post(clip)
    traced(fast, fast.post(clips[0]), HIT)
    [before] = counters(fast)
    traced(fast, fast.post(clips[3]), MISS)
    [after] = counters(fast)
    assert after["evictions"] == before["evictions"] + 1
    assert (after["voices"], after["bytes"]) == (3, 3 * VOICE_BYTES)
    traced(fast, fast.post(clips[0]), HIT)
    traced(fast, fast.post(clips[1]), MISS)


def test_sixteen_at_once_each_get_their_own_voice(fast):
    """The simulated voice's pitch follows the clip's loudness, so a mixed-up voice would sound different."""
    clips = [tone(level=level) for level in (0.2, 0.4, 0.6, 0.8)]  # one more than there is room for
    alone = [sound(fast.post(clip, prompt_text="the same")) for clip in clips]
    assert len(set(alone)) == 4
    [before] = counters(fast)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: fast.post(clips[n % 4], prompt_text="the same"), range(48)))
    assert [sound(answer) for answer in answers] == 12 * alone
    [after] = counters(fast)
    assert after["hits"] > before["hits"] and after["misses"] > before["misses"], "both ways were gone"
    assert sum(after[name] - before[name] for name in ("hits", "misses")) == 48


def test_a_bad_clip_fails_each_time_in_its_own_words(fast):
    [before] = counters(fast)
    for _ in range(2):
        answer = fast.post(tone(rate=8000))
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("Audio sample rate 8000Hz, minimum required 16000Hz. ")
        spans = {span["name"]: span for span in fast.trace(answer.headers["x-trace-id"], spans=2)}
        assert spans.keys() == {"post /api/generate", "preprocess_audio"}
        assert spans["post /api/generate"]["tags"]["voice.cache"] == "miss"
    [after] = counters(fast)
    assert after["misses"] == before["misses"] + 2 and after["voices"] == before["voices"]


@pytest.mark.proof
def test_a_replica_killed_with_a_known_voice_is_retried(apps, ray_driver):
    with cache_of(apps["slow"], 5) as slow:
        end = time.monotonic() + 60
        while not all(one["voices"] for one in counters(slow)):  # two ingresses, each with a cache of its own
            assert slow.post().status_code == 200 and time.monotonic() < end
        alone = slow.post()
        request = concurrent.futures.ThreadPoolExecutor(1).submit(slow.post)
        time.sleep(0.8)  # GENERATE_MEL takes 1.5 s
        for replica in slow.replicas("tts-service"):
            os.kill(replica["pid"], signal.SIGKILL)
        answer = request.result(timeout=60)
        assert answer.status_code == 200, answer.text
        spans = slow.trace(answer.headers["x-trace-id"], spans=4)
        assert sorted((span["kind"], span["name"]) for span in spans) == [
            ("CLIENT", "generate_mel"),
            *(("SERVER", name) for name in sorted(HIT)),
        ]
        [lost] = [span for span in spans if span["kind"] == "CLIENT"]
        assert lost["remoteEndpoint"]["serviceName"] == "tts-service" and lost["tags"]["error"] == "the replica died"
        assert sound(answer) == sound(alone)
        slow.wait_ready()


def test_the_embedded_engine_says_the_same_with_a_known_voice(apps, ray_driver):
    clip = (CLUSTER / "assets" / "reference.flac").read_bytes()
    with cache_of(apps["voice"], 1) as voice:
        first, second = (voice.post(clip, text="One and the same.", seed="5") for _ in range(2))
        traced(voice, first, MISS)
        root = traced(voice, second, HIT)["post /api/generate"]
        assert root["tags"]["audio.format"] == "flac"
        assert sound(first) == sound(second)
