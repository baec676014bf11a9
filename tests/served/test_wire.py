"""Arrays travel from replica to replica: no reply that the ingress gets holds a large one."""

import asyncio
import pickle
import time

import numpy as np
import ray

from deployments.arrays import ArrayStore, MemoryTicket
from deployments.ingress.context import RequestContext
from deployments.ingress.stage_clients import AudioClient, EmbeddingClient, Result
from deployments.wire import PCM, UPLOAD, Reply
from engines.contract import Utterance
from tests.helpers.serving import tone
from tracing import Tracer


def test_every_stage_replies_with_tickets(ray_driver, fast):
    """Called as the ingress calls them, with payloads of CosyVoice3's size."""
    from ray import serve

    def handle(service):
        return serve.get_deployment_handle(service, "fast")

    shelf = ArrayStore(ray.nodes()[0]["NodeID"], lambda: False)
    upload = np.frombuffer(tone(), np.uint8)
    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    carrier = root.carrier(time.time_ns() + 30 * 10**9)
    said = Utterance("Hello", "en-US")
    clip = handle("audio-service").prepare.remote(carrier, shelf.pack({UPLOAD: upload}), "").result()
    voice = handle("embedding-service").extract.remote(carrier, clip.facts, clip.parts).result()
    mel = handle("tts-service").generate.remote(carrier, said, voice.parts).result()
    wav = handle("vocoder-service").vocode.remote(carrier, mel.facts, mel.parts).result()

    sizes = {
        name: asyncio.run(shelf.take(part)).nbytes
        for reply in (clip, voice, mel)
        for name, part in reply.parts.items()
        if isinstance(part, MemoryTicket)
    }
    assert sizes == {"view_16000": 640_000, "prompt_mel": 160_000, "mel": 160_000}
    assert wav.parts.keys() == {PCM} and asyncio.run(shelf.take(wav.parts[PCM])).nbytes == 480_000
    shelf.close()
    for reply in (clip, voice, mel, wav):
        assert len(pickle.dumps(reply)) < 5_000, "the whole reply, tickets and all, as it comes to the ingress"


class Handle:
    """Stands in for a DeploymentHandle: keeps what it was called with."""

    def __init__(self, reply: Reply) -> None:
        self.calls = []
        self._reply = reply

    async def remote(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return self._reply


def test_the_ingress_hands_tickets_on_as_they_are():
    ticket, small = MemoryTicket("node", 1, 2, 3, "<f4", (5,)), np.zeros(3)
    audio = Handle(Reply([], {"view_16000": ticket, "extra": small}, {"transcript": None}))
    embedding = Handle(Reply([]))
    tracer = Tracer("cosyvoice3-api")
    now = time.time_ns()
    run = RequestContext(tracer, tracer.server("POST /api/generate", parent=None, start_ns=now), 5.0, now)

    async def scenario() -> Result:
        first, second = AudioClient(audio), EmbeddingClient(embedding)
        first.remote, second.remote = audio.remote, embedding.remote
        first.shelf = ArrayStore("node", lambda: False)
        clip = await first.prepare(b"clip", None, run)
        return await second.extract(clip, run)

    asyncio.run(scenario())
    [((_, facts, parts), kwargs)] = embedding.calls
    assert parts["view_16000"] is ticket and parts["extra"] is small and facts == {"transcript": None} and not kwargs
