"""Plans a request: the jobs for the language model, and the clip that the flow continues."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from engines.contract import Phase, Said, Utterance, Voice
from engines.cosyvoice3 import live_text
from engines.cosyvoice3 import voice as voices
from engines.cosyvoice3.decoder import Job
from engines.cosyvoice3.flow import FlowRow
from engines.cosyvoice3.interleaving import Live
from engines.cosyvoice3.numbers import Sampling
from engines.cosyvoice3.prompts import CROSS_LINGUAL, Prompt, prompt
from engines.cosyvoice3.sampling import Sampler
from engines.cosyvoice3.spelling import spelled
from engines.cosyvoice3.text import parts
from engines.cosyvoice3.tokenizer import TextTokenizer
from speech.dialects import DIALECTS

LEAST, MOST = 2, 20  #: speech tokens for each text token
TEXT_FRONTEND = "TEXT_FRONTEND"
CHUNK = 25  #: speech tokens of a chunk of the flow's attention
LIVE_LEAST = 12  #: tokens of a live text's first chunk: those of a turn, without the three that the flow looks ahead
_LEAST_CLIP = 100  #: tokens of a clip of which nothing is left out
_GOLDEN = 0x9E3779B1  #: 2**32 over the golden ratio: seeds of parts differ from those of neighbouring requests


@dataclass(frozen=True)
class Plan:
    """The plan of an utterance, with a job for each part of its text."""

    jobs: list[Job]
    voice: Voice
    speed: float
    phase: Phase

    @property
    def clip_tokens(self) -> int:
        """Number of speech tokens that the flow continues."""
        return len(self.voice.arrays["speech_tokens"])

    def within(self, positions: int) -> Plan:
        """Return the same plan, with the jobs of live text within so many cache positions of the language model."""
        return replace(self, jobs=[job.within(positions) if job.live else job for job in self.jobs])

    def resumed(self, said: Said) -> Plan:
        """Return the same plan, but continuing after the tokens that its parts have said.

        Raises:
            ValueError: the plan has fewer parts, so the tokens belong to another text.
        """
        if len(said) > len(self.jobs):
            raise ValueError(f"{len(said)} parts are said to have spoken, and the text has {len(self.jobs)}")
        more = [()] * (len(self.jobs) - len(said))
        return replace(
            self, jobs=[replace(job, said=each) for job, each in zip(self.jobs, (*said, *more), strict=True)]
        )

    def row(self, tokens: list[int], chunked: bool = False, final: bool = True) -> FlowRow:
        """Make the flow's row of a part's speech tokens; `chunked` and `final` are those of `FlowRow`."""
        arrays = self.voice.arrays
        return FlowRow(
            torch.tensor(tokens, dtype=torch.int64),
            torch.tensor(arrays["speech_tokens"]),
            torch.tensor(arrays["prompt_mel"]),
            torch.tensor(arrays["embedding"]),
            chunked,
            final,
        )


class Planner:
    """A planner that reads utterances.

    Args:
        tokenizer: the checkpoint's.
        sampling: the checkpoint's settings; None always takes the likeliest token.
        speech_tokens: the number of speech tokens in the vocabulary.
        parity: plan as the official code does. In cross-lingual mode it counts the prefix as text to be spoken, and so
            lets short texts run up to 2.8 times as long. It does not enforce the least length (see `Sampler`). For
            the errors with live text see `interleaving.turns`.
        live_clip: see `CosyVoice3Engine`.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        sampling: Sampling | None,
        speech_tokens: int,
        parity: bool = False,
        live_clip: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._speech_tokens = speech_tokens
        self._parity = parity
        self._live_clip = live_clip

    def plan(self, utterance: Utterance, voice: Voice) -> Plan:
        """Plan an utterance; raises the SpeechErrors of `parts` for the text, and of `prompt` for the dialect."""
        start = time.time_ns()
        language = DIALECTS.find(utterance.dialect).language
        # The voice's own transcript belongs to its speech tokens; the request's serves a voice stored without one.
        said = voices.transcript(voice) or utterance.prompt_text
        if utterance.live:
            jobs = self._live_jobs(utterance, voice, language, said if self._live_clip else None)
            return Plan(jobs, _aligned(voice), utterance.speed, Phase(TEXT_FRONTEND, start, time.time_ns()))
        texts = parts(utterance.text, language, lambda text: len(self._tokenizer.ids(text)))
        jobs = [
            self._job(prompt(utterance, text, said), voice, utterance.seed, index) for index, text in enumerate(texts)
        ]
        return Plan(jobs, voice, utterance.speed, Phase(TEXT_FRONTEND, start, time.time_ns()))

    def _job(self, read: Prompt, voice: Voice, seed: int, index: int) -> Job:
        before, text = self._tokenizer.ids(read.before), self._tokenizer.ids(read.text)
        counted = len(text)
        if self._parity and read.mode == CROSS_LINGUAL:
            counted += len(before)
        sounds = voice.arrays["speech_tokens"].tolist() if read.continues_clip else []
        return Job([*before, *text], sounds, self._sampler(seed, index, counted), MOST * counted)

    def _sampler(self, seed: int, index: int, counted: int) -> Sampler:
        """Make the sampler of the part `index`, which has so many text tokens."""
        # Each part has draws of its own, the first the seed's. Only 32 bits of a seed count.
        seed = (seed + index * _GOLDEN) % 2**32
        return Sampler(self._sampling, self._speech_tokens, seed, LEAST * counted, self._parity)

    def _live_jobs(self, utterance: Utterance, voice: Voice, language: str, transcript: str | None) -> list[Job]:
        """Plan a live text: a job for each part, of which the last one is open while more text will come."""
        read = prompt(utterance, "", transcript)
        before = self._tokenizer.ids(read.before)
        prefix = before.index(self._tokenizer.end_of_prompt) + 1
        sounds = voice.arrays["speech_tokens"].tolist() if read.continues_clip else []
        return [
            Job(
                [*before, *part.ids],
                sounds,
                self._sampler(utterance.seed, index, len(part.ids)),
                max(1, MOST * len(part.ids)),
                live=Live(prefix, len(before) - prefix, part.open),
            )
            for index, part in enumerate(live_text.parts(utterance.text, language, utterance.open, self._tokenizer.ids))
        ]


def _aligned(voice: Voice) -> Voice:
    """Return the voice whose first chunk of live text needs no more than the first fifteen tokens.

    A chunk ends where a chunk of the flow's attention ends, counted from the clip's beginning. So up to a second of
    the beginning of the clip is left out, unless the clip is short.
    """
    tokens = voice.arrays["speech_tokens"]
    extra = (len(tokens) + LIVE_LEAST) % CHUNK
    if len(tokens) - extra < _LEAST_CLIP:
        return voice
    arrays = {**voice.arrays, "speech_tokens": tokens[extra:], "prompt_mel": voice.arrays["prompt_mel"][2 * extra :]}
    return Voice(arrays)


def warm(language: str) -> None:
    """Load a language's normalisation, which is built on first use."""
    spelled({"zh": "今天25度。", "ja": "今日は25度。"}.get(language, "25."), language)
