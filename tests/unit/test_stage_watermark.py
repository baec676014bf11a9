"""vocoder-service with the watermark, without a cluster: whole speech, a stream, and the search for it."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr

from cluster.demo import CLIP
from deployments.settings import GraphConfig, StageConfig
from deployments.stages import base
from deployments.stages.vocoder import VocoderService
from deployments.wire import MelChunkReply, MelReply, StreamState
from engines import contract
from engines.contract import Capabilities
from speech.pcm import from_pcm
from tracing import CallContext

RATE = 24_000
SECONDS = 4.0


def recording() -> np.ndarray:
    samples, rate = soundfile.read(CLIP, dtype="float32")
    return soxr.resample(samples, rate, RATE)[: int(SECONDS * RATE)]


class Vocoder:
    """Gives out a recording, as far as the mel reaches."""

    def vocode(self, mels):
        return [recording() for _ in mels]

    def vocode_chunks(self, chunks):
        return [recording()[given : int(round(chunk.seconds * RATE))] for chunk, given in chunks]


class Engine:
    capabilities = Capabilities("fake", "1", RATE, frozenset(), frozenset(), (), streaming=True)

    def load_vocoder(self, device="cpu", threads=1):
        return Vocoder()


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(
        base.serve, "get_replica_context", lambda: SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
    )
    monkeypatch.setattr(
        base.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here", get_accelerator_ids=dict)
    )
    monkeypatch.setattr(base, "Nodes", lambda: lambda: False)
    monkeypatch.setattr(contract, "create", lambda name, options: Engine())
    made = []

    def make(watermark: str) -> VocoderService:
        made.append(VocoderService(StageConfig(engine="fake", watermark=watermark)))
        return made[-1]

    yield make
    for one in made:
        one.arrays.close()
        one.queue.close()


def call() -> CallContext:
    now = time.time_ns()
    return CallContext(f"00-{'a' * 32}-{'b' * 16}-01", now, now + 60 * 10**9)


async def whole(service: VocoderService) -> np.ndarray:
    reply = await service.vocode(call(), MelReply({"mel": np.zeros((10, 4), np.float32)}, SECONDS))
    return from_pcm(await service.arrays.unpack(reply.value.pcm))


async def streamed(service: VocoderService) -> np.ndarray:
    state, parts = StreamState(), []
    for reach in (1.0, 2.0, SECONDS):
        last = reach == SECONDS
        chunk = MelChunkReply({"mel": np.zeros((10, 4), np.float32)}, reach, 0, last, last)
        reply = await service.vocode_chunk(call(), chunk, state)
        state = reply.value.state
        parts.append(from_pcm(await service.arrays.unpack(reply.value.pcm)))
    return np.concatenate(parts)


@pytest.mark.parametrize("way", [whole, streamed])
def test_what_the_service_makes_has_the_watermark_where_it_is_on_and_else_not(service, way):
    async def scenario():
        marking, plain = service("perth"), service("off")
        found = {}
        for name, one in (("marked", marking), ("plain", plain)):
            samples = await way(one)
            assert len(samples) == int(SECONDS * RATE)
            reply = await marking.find_watermark(call(), samples, RATE)
            [span] = reply.spans
            assert (span.name, span.tags["audio.watermark"]) == ("FIND_WATERMARK", round(reply.value, 4))
            found[name] = reply.value
        return found

    found = asyncio.run(scenario())
    assert found["plain"] < 0.1 and found["marked"] > 0.9


def test_the_graphs_setting_reaches_the_stages_and_the_fallback():
    config = GraphConfig(marking={"watermark": "perth"}, fallback={"engine": "simulated"})
    assert config.stage(config.vocoder).watermark == config.fallback_stages().watermark == "perth"
    assert GraphConfig().stage(GraphConfig().vocoder).watermark == "off"


def test_a_bare_off_of_yaml_is_the_word():
    assert GraphConfig(marking={"watermark": False}).marking.watermark == "off"
