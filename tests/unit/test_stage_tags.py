"""Tags that each stage's span says of its own work, also of a call that fails before any work."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from types import SimpleNamespace

import numpy as np
import pytest

from deployments.settings import StageConfig
from deployments.stages import base
from deployments.stages.embedding import EmbeddingService
from deployments.stages.tts import TtsService
from deployments.wire import ClipReply
from speech import requests
from speech.dialects import Registry
from speech.utterance import Utterance
from tracing import CallContext, FinishedSpan, Tracer

CLIP_TAGS = {"audio.sample_rate": 44_100, "audio.duration": 4.2, "audio.format": "flac", "audio.clipping": 0.0}
SAID = Utterance("你好", "zh-Sichuan", mode="instruct", style_instruction="happy", dialect_tag="sichuan")
SAID_TAGS = {
    "request.dialect": "sichuan",
    "request.dialect.code": "zh-Sichuan",
    "request.mode": "instruct",
    "text.length": 2,
}


@pytest.fixture
def stage(monkeypatch):
    """Makes a stage as a Serve replica has it, with the simulated engine and without Serve."""
    replica = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
    node = SimpleNamespace(get_node_id=lambda: "node", get_accelerator_ids=dict)
    monkeypatch.setattr(base.serve, "get_replica_context", lambda: replica)
    monkeypatch.setattr(base.ray, "get_runtime_context", lambda: node)
    monkeypatch.setattr(base, "Nodes", lambda: lambda: False)
    made = []

    def make(kind):
        made.append(kind(StageConfig(engine="simulated", engine_options={"encode_ms": 0, "generate_ms": 0})))
        return made[-1]

    yield make
    for one in made:
        one.arrays.close()


def call(in_s: float = 30.0) -> CallContext:
    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    return root.call_context(time.time_ns() + int(in_s * 1e9))


def clip(tags: dict) -> ClipReply:
    return ClipReply({16_000: np.zeros(16_000, np.float32)}, {"prompt_mel": np.zeros((10, 80), np.float32)}, None, tags)


def says(span: FinishedSpan, tags: dict) -> bool:
    return {key: span.tags.get(key) for key in tags} == tags


@pytest.mark.parametrize("in_s, failed", [(30.0, False), (-1.0, True)], ids=["in time", "past the deadline"])
def test_extract_speaker_says_the_clip_that_it_worked_on(stage, in_s, failed):
    service = stage(EmbeddingService)
    reply = asyncio.run(service.extract(call(in_s), clip(CLIP_TAGS)))
    [span] = reply.spans
    assert (reply.error is not None, span.failed) == (failed, failed)
    assert says(span, {"audio.sample_rate": 44_100, "audio.duration": 4.2})
    assert span.tags["model.version"] == service.engine.capabilities.version
    assert "audio.format" not in span.tags


def test_a_clip_without_a_readable_header_adds_no_tags(stage):
    [span] = asyncio.run(stage(EmbeddingService).extract(call(), clip({}))).spans
    assert not any(key.startswith("audio.") for key in span.tags)


@pytest.mark.parametrize("in_s, failed", [(30.0, False), (-1.0, True)], ids=["in time", "past the deadline"])
def test_generate_mel_says_what_was_asked_for(stage, in_s, failed):
    reply = asyncio.run(stage(TtsService).generate(call(in_s), SAID, {"embedding": np.zeros(256, np.float32)}))
    span = reply.spans[0]
    assert (reply.error is not None, span.failed) == (failed, failed)
    assert says(span, SAID_TAGS)


def test_a_streamed_generate_mel_says_it_too(stage):
    async def main() -> list:
        async with aclosing(stage(TtsService).stream(call(-1), SAID, {})) as replies:
            return [reply async for reply in replies]

    [reply] = asyncio.run(main())
    assert reply.error is not None and says(reply.spans[0], SAID_TAGS)


def test_a_request_gives_its_utterance_the_dialect_s_tag_also_in_pieces():
    fields = {"text": "One sentence. Another one.", "dialect": "en-us"}
    request = requests.parse(fields, Registry())
    assert {(one.dialect, one.dialect_tag) for one in request.pieces(early=True)} == {("en-US", "english-us")}
