"""Arrays travel from replica to replica: no reply that the ingress gets holds a large one."""

import asyncio
import pickle
import time

import numpy as np
import ray

from deployments.arrays import ArrayStore, MemoryRef
from deployments.ingress.context import RequestContext
from deployments.ingress.peer_clocks import PeerClocks
from deployments.ingress.stage_clients import AudioClient, EmbeddingClient
from deployments.ingress.stage_result import StageResult
from deployments.wire import ClipReply, StageReply, VoiceReply
from engines.contract import Utterance
from tests.helpers.serving import tone
from tracing import Tracer


def test_every_stage_replies_with_references(ray_driver, fast):
    """Called as the ingress calls them, with payloads of CosyVoice3's size."""
    from ray import serve

    def handle(service):
        return serve.get_deployment_handle(service, "fast")

    shelf = ArrayStore(ray.nodes()[0]["NodeID"], lambda: False)
    upload = np.frombuffer(tone(), np.uint8)
    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    carrier = root.call_context(time.time_ns() + 30 * 10**9)
    said = Utterance("Hello", "en-US")
    clip = handle("audio-service").preprocess.remote(carrier, shelf.pack(upload), "").result()
    voice = handle("embedding-service").extract.remote(carrier, clip.value).result()
    mel = handle("tts-service").generate.remote(carrier, said, voice.value.arrays).result()
    wav = handle("vocoder-service").vocode.remote(carrier, mel.value).result()

    sizes = {
        name: asyncio.run(shelf.get(packed)).nbytes
        for arrays in (clip.value.views, clip.value.features, voice.value.arrays, mel.value.arrays)
        for name, packed in arrays.items()
        if isinstance(packed, MemoryRef)
    }
    assert sizes == {16_000: 640_000, "prompt_mel": 160_000, "mel": 160_000}
    assert asyncio.run(shelf.get(wav.value.pcm)).nbytes == 480_000
    shelf.close()
    for reply in (clip, voice, mel, wav):
        assert len(pickle.dumps(reply)) < 5_000, "the whole reply, references and all, as it comes to the ingress"


class Handle:
    """Stands in for a DeploymentHandle: keeps what it was called with."""

    def __init__(self, reply: StageReply) -> None:
        self.calls = []
        self._reply = reply

    async def remote(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return self._reply


def test_the_ingress_hands_references_on_as_they_are():
    ticket, small = MemoryRef("node", 1, 2, 3, "<f4", (5,)), np.zeros(3)
    reply = ClipReply({16_000: ticket}, {"extra": small}, None)
    audio, embedding = Handle(StageReply([], reply)), Handle(StageReply([], VoiceReply({}, ("engine", "1"))))
    tracer = Tracer("cosyvoice3-api")
    now = time.time_ns()
    run = RequestContext(tracer, tracer.server("POST /api/generate", parent=None, start_ns=now), 5.0, now)

    async def scenario() -> StageResult:
        first, second = AudioClient(audio), EmbeddingClient(embedding)
        first.remote, second.remote = audio.remote, embedding.remote
        first.arrays = ArrayStore("node", lambda: False)
        first.clocks = second.clocks = PeerClocks("node")
        clip = await first.preprocess(b"clip", None, run)
        return await second.extract(clip, False, run)

    asyncio.run(scenario())
    [((_, clip, for_fit), kwargs)] = embedding.calls
    assert clip.views[16_000] is ticket and clip.features["extra"] is small and not for_fit and not kwargs
