"""The acoustic model and the vocoder behind the engine contract: lists of requests in, lists of results out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from engines.contract import Mel, Phase, Utterance, Voice
from engines.cosyvoice3 import flow, hift, noise, speech_lm
from engines.cosyvoice3.decoder import Decoder, Row
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.flow_batches import Limits, batches
from engines.cosyvoice3.guard import guarded
from engines.cosyvoice3.plan import Plan, Planner, warm
from engines.cosyvoice3.tokenizer import TextTokenizer
from speech.errors import InternalError, InvalidInput, SpeechError

LM_DECODE, FLOW_MATCHING = "LM_DECODE", "FLOW_MATCHING"
FRAMES_PER_SECOND = 50
_log = logging.getLogger(__name__)


class CosyVoice3AcousticModel:
    """An `engines.contract.AcousticModel`: language model and flow.

    A Mel's arrays: `mel` float32 (80, n), and `parts` int64, the frames of each part of the text; they add up to n.

    Args:
        dtype: of language model and flow; what the flow's steps add up stays float32.
        rows, positions: of the decoder's cache.
        greedy: always the likeliest token, whatever the seed.
        parity: see `CosyVoice3Engine`.
    """

    def __init__(self, directory: ModelDirectory, device: str = "cpu", threads: int = 1,
                 dtype: torch.dtype = torch.float32, rows: int = 8, positions: int = 3072, greedy: bool = False,
                 parity: bool = False, limits: Limits = Limits()) -> None:
        torch.set_num_threads(threads)
        numbers = directory.numbers
        lm = speech_lm.load(directory, device, dtype)
        self.planner = Planner(TextTokenizer(directory), None if greedy else numbers.llm.sampling, lm.speech_tokens,
                               parity)
        self.decoder = Decoder(lm, rows, positions)
        self.flow = flow.load(directory, device, dtype)
        self._limits = limits
        self._warm_up()

    def generate(self, jobs: Sequence[tuple[Utterance, Voice]]) -> list[Mel | SpeechError]:
        """A mel for each job. One that can't be said gives its SpeechError in its place."""
        plans = [guarded(self.planner.plan, utterance, voice) for utterance, voice in jobs]
        rows = [guarded(self._submit, plan) if isinstance(plan, Plan) else plan for plan in plans]
        try:
            self.decoder.run()
        finally:
            for row in (row for found in rows if isinstance(found, list) for row in found):
                self.decoder.cancel(row)  # after a failed step nobody else's batch may find it
        start = time.time_ns()
        mels = self._flow(plans, rows)
        end = time.time_ns()
        return [found if isinstance(found, SpeechError) else guarded(_mel, plan, found, mels[index], start, end)
                for index, (plan, found) in enumerate(zip(plans, rows, strict=True))]

    def _submit(self, plan: Plan) -> list[Row]:
        if any(job.positions > self.decoder.cache.positions for job in plan.jobs):
            raise InvalidInput("Text, transcript and reference clip are together longer than the language model's "
                               "cache allows here. Shorten the text, or use a shorter clip.", param="text",
                               code="text_too_long_spoken")
        return [self.decoder.submit(job) for job in plan.jobs]

    def _flow(self, plans: list, rows: list) -> dict[int, list[torch.Tensor]]:
        """The mels of each job's parts, by the job's index."""
        parts = [(index, part, plans[index].row(row.tokens)) for index, found in enumerate(rows)
                 if isinstance(found, list) and all(row.tokens for row in found) for part, row in enumerate(found)]
        mels: dict[int, list[torch.Tensor]] = {index: [None] * len(plans[index].jobs) for index, _, _ in parts}
        for members in batches([self.flow.frames(row) for _, _, row in parts], self._limits):
            for member, mel in zip(members, self.flow([parts[i][2] for i in members]), strict=True):
                index, part, _ = parts[member]
                mels[index][part] = mel
        return {index: [_at_speed(mel, plans[index].speed) for mel in found] for index, found in mels.items()} | {
            index: [] for index in range(len(rows)) if index not in mels}

    def _warm_up(self) -> None:
        for language in ("zh", "en", "ja"):
            warm(language)
        voice = Voice({"speech_tokens": np.zeros(50, np.int32), "prompt_mel": np.zeros((100, 80), np.float32),
                       "embedding": np.ones(192, np.float32)})
        result, = self.generate([(Utterance("Warm.", "en-US"), voice)])
        if isinstance(result, SpeechError) and not isinstance(result, NothingSaid):
            raise RuntimeError("the warm-up sentence could not be said") from result


class NothingSaid(InternalError):
    """The language model ended before its first token."""


def _mel(plan: Plan, rows: list[Row], mels: list[torch.Tensor], start_ns: int, end_ns: int) -> Mel:
    if not mels:
        raise NothingSaid("The speech model made no sound of this text. Try another seed, or word it differently.",
                          param="text", code="nothing_said")
    whole = torch.cat(mels, dim=1).cpu().numpy()
    return Mel({"mel": whole, "parts": np.array([mel.shape[1] for mel in mels], np.int64)},
               whole.shape[1] / FRAMES_PER_SECOND,
               (plan.phase, _decoding(rows), Phase(FLOW_MATCHING, start_ns, end_ns)))


def _decoding(rows: list[Row]) -> Phase:
    """The rows of one request as a phase: from when the first joined the batch until the last had left it."""
    start, end = min(row.joined_ns for row in rows), max(row.ended_ns for row in rows)
    tokens, steps = sum(len(row.job.sampler.picked) for row in rows), sum(row.steps for row in rows)
    return Phase(LM_DECODE, start, end, {
        "batch.wait_ms": round((start - min(row.submitted_ns for row in rows)) / 1e6, 3),
        "batch.size": max(1, round(sum(row.batch_sizes for row in rows) / steps)),
        "lm.steps": steps,
        "lm.tokens_per_second": round(tokens / max(1e-9, (end - start) / 1e9), 3)})


def _at_speed(mel: torch.Tensor, speed: float) -> torch.Tensor:
    """Squeezed in time, linearly between frames; the pitch stays. As the official code does it."""
    if speed == 1.0:
        return mel
    return F.interpolate(mel[None], size=max(1, int(mel.shape[1] / speed)), mode="linear")[0]


class CosyVoice3Vocoder:
    """An `engines.contract.Vocoder`, 24 kHz. On a GPU parts of like length are computed together, on a CPU singly."""

    def __init__(self, directory: ModelDirectory, device: str = "cpu", threads: int = 1,
                 limits: Limits = Limits()) -> None:
        torch.set_num_threads(threads)
        self._network = hift.load(directory, device)
        self._noise = noise.Excitation(directory.numbers)
        self._limits = Limits(rows=1) if device.startswith("cpu") else limits
        for frames in (100, 200):
            self._vocode([torch.zeros(80, frames)])

    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray | SpeechError]:
        """Mono float32 (n,) within ±0.99 for each Mel: its parts, one behind the other."""
        split = [guarded(_parts, mel) for mel in mels]
        parts = [part for found in split if isinstance(found, list) for part in found]
        try:
            sounds = iter(self._vocode(parts))
        except Exception:
            if len(mels) == 1:
                raise
            _log.error("a batch of %d could not be vocoded; trying its members one by one", len(mels))
            return [guarded(lambda mel: self.vocode([mel])[0], mel) for mel in mels]
        return [found if isinstance(found, SpeechError) else np.concatenate([next(sounds) for _ in found])
                for found in split]

    def _vocode(self, parts: list[torch.Tensor]) -> list[np.ndarray]:
        sounds: list[np.ndarray] = [np.zeros(0, np.float32)] * len(parts)
        for members in batches([part.shape[1] for part in parts], self._limits):
            for member, audio in zip(members, self._network([parts[i] for i in members], self._noise), strict=True):
                sounds[member] = audio.cpu().numpy()
        return sounds


def _parts(mel: Mel) -> list[torch.Tensor]:
    whole, frames = torch.tensor(mel.arrays["mel"]), mel.arrays["parts"].tolist()
    if whole.ndim != 2 or whole.shape[0] != 80 or sum(frames) != whole.shape[1] or min(frames) < 1:
        raise InternalError("The acoustic features do not have the form that the vocoder reads.")
    return list(whole.split(frames, dim=1))
