"""Makes requests without text or clip, with lengths that depend on their seeds."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from engines.contract import Phase, Utterance, Voice
from engines.cosyvoice3.decoder import Job
from engines.cosyvoice3.numbers import Sampling
from engines.cosyvoice3.plan import Plan
from engines.cosyvoice3.sampling import Sampler

TOKENS_PER_SECOND = 25


@dataclass(frozen=True)
class Lengths:
    """The mean lengths; each request differs from them by up to a fifth.

    Args:
        text: text tokens of prefix, transcript and text together.
        clip, speech: speech tokens, 25 a second.
    """

    text: int = 60
    clip: int = 250
    speech: int = 250

    def of(self, seed: int) -> tuple[int, int, int]:
        text, clip, speech = np.random.default_rng(seed).uniform(0.8, 1.2, 3) * (self.text, self.clip, self.speech)
        return max(4, round(text)), max(4, round(clip)), max(4, round(speech))

    @staticmethod
    def frames(tokens: int) -> int:
        """Return the most mel frames that a request of so many tokens on average can have."""
        return 2 * round(1.2 * tokens) + 2

    @property
    def positions(self) -> int:
        """The most cache positions that a request can need, rounded up."""
        return -(-int(1.2 * (self.text + self.clip + self.speech) + 4) // 64) * 64


class RandomPlanner:
    """A planner in place of `engines.cosyvoice3.plan.Planner`, for which an utterance is only its seed.

    Random weights end at random. So control tokens are not picked before a length that the seed gives, and there the
    row ends by itself.
    """

    def __init__(self, lengths: Lengths, sampling: Sampling, vocabulary: int, speech_tokens: int) -> None:
        self._lengths, self._sampling = lengths, sampling
        self._vocabulary, self._speech_tokens = vocabulary, speech_tokens

    def plan(self, utterance: Utterance, voice: Voice) -> Plan:
        now = time.time_ns()
        return Plan([self.job(utterance.seed)], voice, utterance.speed, Phase("TEXT_FRONTEND", now, now))

    def job(self, seed: int) -> Job:
        text, clip, speech = self._lengths.of(seed)
        random = np.random.default_rng(seed)
        return Job(
            random.integers(0, min(10_000, self._vocabulary), text).tolist(),
            random.integers(0, self._speech_tokens, clip).tolist(),
            Sampler(self._sampling, self._speech_tokens, seed, least=speech),
            most=speech,
        )

    def voice(self, seed: int) -> Voice:
        clip = self._lengths.of(seed)[1]
        random = np.random.default_rng(seed)
        return Voice(
            {
                "speech_tokens": random.integers(0, self._speech_tokens, clip).astype(np.int32),
                "prompt_mel": random.standard_normal((2 * clip, 80)).astype(np.float32),
                "embedding": random.standard_normal(192).astype(np.float32),
            }
        )


def utterance(seed: int) -> Utterance:
    return Utterance("", "zh-CN", seed=seed)
