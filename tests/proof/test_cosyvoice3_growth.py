"""Five hundred requests of random lengths through the engine: what it keeps of them in memory."""

import ctypes
import gc

import numpy as np
import psutil
import pytest
import torch

from bench.measuring.memory import anonymous_bytes
from engines.contract import Mel, Utterance, create
from tests.helpers.cosyvoice3 import tiny_checkpoint  # noqa: F401

pytestmark = pytest.mark.soak

REQUESTS, TOGETHER, READ_EVERY = 500, 4, 20
WORDS = "the rain in spain stays mainly in the plain and the wind goes round the hill".split()


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def mebibytes() -> float:
    """Return the process's own memory, once the C library has given back what was freed and it kept for later."""
    ctypes.CDLL(None).malloc_trim(0)
    return anonymous_bytes(psutil.Process()) / 2**20


def test_nothing_of_five_hundred_requests_stays(tiny):
    engine = create("cosyvoice3", {"model_dir": str(tiny.path), "lm_rows": TOGETHER, "lm_positions": 4000})
    speaker, acoustic, vocoder = (engine.load_speaker_encoder(), engine.load_acoustic_model(), engine.load_vocoder())
    random = np.random.default_rng(0)

    def request(words: int, samples: int, seed: int):
        clip = random.standard_normal(samples).astype(np.float32) / 10
        (voice,) = speaker.encode([engine.prepare(clip, 24_000, None)])
        text = " ".join(random.choice(WORDS, words)).capitalize() + "."
        return Utterance(text, "en-US", seed=seed, speed=float(random.uniform(0.8, 1.25))), voice

    def serve(jobs) -> int:
        mels = acoustic.generate(jobs)
        assert all(isinstance(mel, Mel) for mel in mels), mels
        sounds = vocoder.vocode(mels)
        return sum(len(sound) for sound in sounds)

    # The longest first: the vocoder's noise is kept as far as it was ever needed.
    cache = acoustic.decoder.cache.store.data_ptr()
    serve([request(14, 5 * 24_000, seed) for seed in range(TOGETHER)])
    live, used = [], []
    for number in range(0, REQUESTS, TOGETHER):
        serve(
            [
                request(int(random.integers(1, 5)), int(random.integers(3 * 24_000, 4 * 24_000)), number + place)
                for place in range(TOGETHER)
            ]
        )
        if number % READ_EVERY == 0:
            live.append(tensors())
            used.append(mebibytes())
    print("live tensors", live, "MiB", [round(mib, 1) for mib in used])
    assert len(set(live[1:])) == 1, f"tensors that are kept: {live}"
    quarter = len(used) // 4
    early, late = (float(np.median(part)) for part in (used[quarter : 2 * quarter], used[-quarter:]))
    assert late - early <= 0.02 * early, f"memory grew from {early:.1f} to {late:.1f} MiB: {used}"
    assert acoustic.decoder.cache.store.data_ptr() == cache
