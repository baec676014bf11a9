"""Arrays travel from replica to replica: no reply that the ingress gets holds a large one."""

import asyncio
import pickle
import time

import numpy as np
import ray
from serving import tone

from deployments.client import AudioClient, EmbeddingClient, Result
from deployments.run import Run
from deployments.wire import LARGE_BYTES, Reply
from engines.contract import Utterance
from tracing import Tracer


def test_every_stage_replies_with_references(ray_driver, fast):
    """Called as the ingress calls them, with payloads of CosyVoice3's size."""
    from ray import serve

    def handle(service):
        return serve.get_deployment_handle(service, "fast")

    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    carrier = root.carrier(time.time_ns() + 30 * 10**9)
    said = Utterance("Hello", "en-US")
    clip = handle("audio-service").prepare.remote(carrier, tone(), "").result()
    voice = handle("embedding-service").extract.remote(carrier, clip.facts, **clip.parts).result()
    mel = handle("tts-service").generate.remote(carrier, said, **voice.parts).result()
    wav = handle("vocoder-service").vocode.remote(carrier, mel.facts, **mel.parts).result()

    sizes = {name: ray.get(part).nbytes for reply in (clip, voice, mel) for name, part in reply.parts.items()
             if isinstance(part, ray.ObjectRef)}
    assert sizes == {"view_16000": 640_000, "prompt_mel": 160_000, "mel": 160_000}
    assert len(wav.payload) == 44 + 480_000 and not wav.parts
    for reply in (clip, voice, mel):
        assert all(part.nbytes < LARGE_BYTES for part in reply.parts.values() if isinstance(part, np.ndarray))
        small = Reply(reply.spans, {name: part for name, part in reply.parts.items()
                                    if not isinstance(part, ray.ObjectRef)}, reply.facts)
        assert len(pickle.dumps(small)) < 5_000, "what travels beside the references is small"


class Handle:
    """Stands in for a DeploymentHandle: keeps what it was called with."""

    def __init__(self, reply: Reply) -> None:
        self.calls = []
        self._reply = reply

    async def remote(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return self._reply


def test_references_go_on_as_top_level_arguments():
    """Nested in a list or dict they would lose their owner under load."""
    ref, small = ray.ObjectRef.from_random(), np.zeros(3)
    audio = Handle(Reply([], {"view_16000": ref, "extra": small}, {"transcript": None}))
    embedding = Handle(Reply([]))
    tracer = Tracer("cosyvoice3-api")
    now = time.time_ns()
    run = Run(tracer, tracer.server("POST /api/generate", parent=None, start_ns=now), 5.0, now)

    async def scenario() -> Result:
        first, second = AudioClient(audio), EmbeddingClient(embedding)
        first.remote, second.remote = audio.remote, embedding.remote
        clip = await first.prepare(b"clip", Utterance("a", "en-US"), run)
        return await second.extract(clip, run)
    asyncio.run(scenario())
    [(args, kwargs)] = embedding.calls
    assert kwargs["view_16000"] is ref and kwargs["extra"] is small
