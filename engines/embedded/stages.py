"""The acoustic model and the vocoder behind the engine contract, on lists of requests."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from engines.contract import Arrays, ChunkAudio, Mel, MelChunk, Phase, Utterance, Voice
from engines.embedded import acoustic, deltas, moments, style, text, vocoder
from engines.embedded.blocks import STYLE, with_deltas
from engines.embedded.finish import finish, finish_part
from engines.embedded.istftnet_cpu import CpuVocoder, Sound
from engines.embedded.loudness import SILENT_LUFS
from engines.embedded.mapper import StyleMapper
from engines.embedded.moments import Expected, MomentPredictor, VoiceMemory
from engines.embedded.packed_layers import Precision
from engines.embedded.packed_network import fastest
from engines.embedded.style import Delivery
from speech.aligned_text import AlignedText
from speech.dialects import DIALECTS
from speech.errors import InternalError, SpeechError
from speech.words import Timings

R = TypeVar("R")
logger = logging.getLogger(__name__)

TEXT_FRONTEND = "TEXT_FRONTEND"
ACOUSTIC_MODEL = "ACOUSTIC_MODEL"
_SEEDS = 2**63  #: the range of torch's generators
#: Phonemes that the network gets at once. It could take 510, but it speaks faster the more it gets: from 55 to 447 a
#: Mandarin sentence shrinks from 2.9 to 1.9 s. 200 characters of English still fit whole.
_PART_PHONEMES = 250
#: frames of silence left on either side of a join between parts of a long text: after a sentence, a clause, a word. The
#: last sound before a join is drawn out and dies away, which sounds like 0.3 s more.
_PAUSE_FRAMES = (8, 3, 1)
#: frames by which a phoneme is heard before the network's durations have it: fricatives and the power above 4.5 kHz
#: agree best at 55 ms, vowels and the power from 0.2 to 1.5 kHz at 50 ms (20 sentences; at each of five speeds 45 to
#: 65 ms). `bench.words` measures what is left.
_HEARD_BEFORE = 2
_MARGIN_COLUMNS = 7  #: of 12.5 ms; what `finish` leaves of the silence
_SENTENCE_ENDS, _CLAUSE_ENDS = ".!?…", ",;:—"


@dataclass(frozen=True)
class _Plan:
    """The network's input for an utterance, once its text and style are read."""

    text: str  #: as it was written
    phonemes: list[AlignedText]  #: more than one part only for a long text
    parts: list[list[int]]  #: their ids
    style: np.ndarray  #: (256,)
    voice: Arrays
    language: str
    speed: float
    log_pitch: float
    gain: float
    seed: int
    phase: Phase


class EmbeddedAcousticModel:
    """An `engines.contract.AcousticModel`.

    A Mel's arrays: `features` float32 (512, 2n) and `f0` float32 (2n,) in Hz for n frames of 25 ms, `style` float32
    (128,), the acoustic half, `gain` float32 (1,), `seed` int64 (1,), `spoken` int64 (2,), the columns between the
    silent edges, and `speaker` uint8 (16,), the same in all mels of a voice in a language. 164 kB for each second of
    speech. That of a fitted voice also holds the vocoder's deltas (deltas.py), 37 kB.

    Args:
        device: `cpu`, or anything else torch knows.
        threads: that compute on a CPU; in bfloat16 with AMX it is one, whatever is said here.
        precision: of a CPU's products; None: what it is fastest in.
    """

    def __init__(self, device: str = "cpu", threads: int = 1, precision: Precision | None = None) -> None:
        precision = precision or fastest()
        # With AMX products wait for their weights: two threads are no faster for a clause, and take 1.7 times its work.
        waits = precision == "bfloat16" and torch.cpu._is_amx_tile_supported() and device.startswith("cpu")
        torch.set_num_threads(1 if waits else threads)
        self._device = device
        self._mapper = StyleMapper.load()
        self._text = text.load()
        self._silent, self._sentence_ends, self._clause_ends = (
            frozenset(self._text.ids(symbols)) for symbols in (text.PAUSES, _SENTENCE_ENDS, _CLAUSE_ENDS)
        )
        self._network = acoustic.load(device, precision)
        self._warm_up()

    def generate(self, jobs: Sequence[tuple[Utterance, Voice]]) -> list[Mel | SpeechError]:
        """Compute the features of each job. A text that can't be said gives its SpeechError in its place."""
        plans = [_guarded(self._plan, utterance, voice) for utterance, voice in jobs]
        mels = iter(self._compute([plan for plan in plans if isinstance(plan, _Plan)]))
        return [next(mels) if isinstance(plan, _Plan) else plan for plan in plans]

    @torch.inference_mode()
    def probe(self) -> np.ndarray:
        """Return (5, 512), the reading of three phonemes by the network's first and largest part."""
        ids, _ = acoustic.pad([[50, 83, 54]], self._device)
        return self._network.narrow(self._network.albert(ids, None))[0].cpu().numpy()

    def _plan(self, utterance: Utterance, voice: Voice) -> _Plan:
        start = time.time_ns()
        language = DIALECTS.find(utterance.dialect).language
        delivery = Delivery()
        if utterance.mode == "instruct":
            delivery = style.interpret(utterance.style_instruction or "")
        phonemes = self._text.phonemes(utterance.text, language, utterance.dialect)
        spoken = self._text.split(phonemes, _PART_PHONEMES)
        parts = [self._text.ids(part) for part in spoken]
        return _Plan(
            text=utterance.text,
            phonemes=spoken,
            parts=parts,
            # The whole text gets the same style; a style depends a little on the text's length.
            style=self._mapper.style(voice.arrays, max(len(part) for part in parts), language),
            voice=voice.arrays,
            language=language,
            speed=utterance.speed * delivery.speed,
            log_pitch=float(voice.arrays["log_f0"][0]) + delivery.pitch_semitones * math.log(2) / 12,
            gain=10 ** (delivery.energy_db / 20),
            seed=utterance.seed % _SEEDS,
            phase=Phase(TEXT_FRONTEND, start, time.time_ns()),
        )

    def _compute(self, plans: list[_Plan]) -> list[Mel]:
        if not plans:
            return []
        start = time.time_ns()
        rows = [(part, plan) for plan in plans for part in plan.parts]
        # Rounding makes much of little: in a batch a member's durations would not quite be those that it has alone. One
        # by one they are, and that is as fast as a batch in float32.
        together = [rows] if self._network.precision == "float32" else [[row] for row in rows]
        pieces = iter([piece for some in together for piece in self._spoken(some)])
        joined = [_join([next(pieces) for _ in plan.parts]) for plan in plans]
        timed = [_timings(plan, whole.phonemes) for plan, whole in zip(plans, joined, strict=True)]
        phase = Phase(ACOUSTIC_MODEL, start, time.time_ns())
        return [
            Mel(
                arrays={
                    "features": whole.features,
                    "f0": whole.f0,
                    "spoken": np.array(whole.spoken, np.int64),
                    "style": plan.style[:STYLE].astype(np.float32),
                    "gain": np.array([plan.gain], np.float32),
                    "seed": np.array([plan.seed], np.int64),
                    "speaker": _speaker(plan.voice, plan.language),
                    **{name: plan.voice[name] for name in (deltas.OF_VOCODER,) if name in plan.voice},
                },
                seconds=len(whole.f0) * vocoder.SAMPLES_PER_COLUMN / vocoder.SAMPLE_RATE,
                phases=(plan.phase, phase),
                timings=timings,
                divisible=self._device.startswith("cpu"),
            )
            for plan, whole, timings in zip(plans, joined, timed, strict=True)
        ]

    def _spoken(self, rows: list[tuple[list[int], _Plan]]) -> list[_Piece]:
        """Compute a batch of parts, each the phoneme ids of its plan or some of them."""
        ids, lengths = acoustic.pad([part for part, _ in rows], self._device)
        output = self._network(
            ids,
            lengths,
            self._tensor(np.stack([plan.style for _, plan in rows])),
            self._tensor([plan.speed for _, plan in rows]),
            self._tensor([plan.log_pitch for _, plan in rows]),
            deltas.stacked([plan.voice.get(deltas.OF_DECODER) for _, plan in rows], self._device),
        )
        return self._pieces(output, [part for part, _ in rows])

    def _pieces(self, output: acoustic.AcousticOutput, parts: list[list[int]]) -> list[_Piece]:
        features, f0, durations = (array.cpu().numpy() for array in (output.features, output.pitch, output.durations))
        pieces = []
        for i, (frames, ids) in enumerate(zip(output.frames.tolist(), parts, strict=True)):
            spoken = [place for place, token in enumerate(ids, 1) if token not in self._silent] or [0, len(ids)]
            before, after = durations[i, : spoken[0]], durations[i, spoken[-1] + 1 : len(ids) + 2]
            columns = slice(0, 2 * frames)
            silences = int(before.sum()), int(after.sum())
            # The first id is the boundary's.
            ends = np.cumsum(durations[i, : len(ids) + 1]).astype(np.int64)
            pieces.append(
                _Piece(
                    features[i, :, columns].copy(),
                    f0[i, columns].copy(),
                    silences,
                    self._pause(ids),
                    np.stack([ends[:-1], ends[1:]], axis=1),
                )
            )
        return pieces

    def _pause(self, ids: list[int]) -> int:
        end = {token for token in ids[-2:] if token in self._silent}  # a quotation mark may follow the full stop
        return _PAUSE_FRAMES[0 if end & self._sentence_ends else 1 if end & self._clause_ends else 2]

    def _tensor(self, values: np.ndarray | list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)

    def _warm_up(self) -> None:
        """Run once: the front ends build their dictionaries, and torch its kernels, on first use."""
        voice = Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([5.0], np.float32)})
        samples = {"en": ("A warm welcome.", "en-US"), "zh": ("你好，世界。", "zh-CN"), "ja": ("こんにちは。", "ja-JP")}
        for sentence, dialect in samples.values():
            for result in self.generate([(Utterance(sentence, dialect), voice)]):
                if isinstance(result, SpeechError):
                    raise RuntimeError(f"the warm-up sentence for {dialect} could not be said") from result


class EmbeddedVocoder:
    """An `engines.contract.StreamingVocoder`, 24 kHz. On a GPU a batch is computed at once, on a CPU one by one.

    The parts of a divisible mel are computed with the moments that are expected of the whole (moments.py). What is
    expected of a voice is learned from its own sounds, so the first one that comes in chunks is made whole.
    """

    def __init__(self, device: str = "cpu", threads: int = 1, bf16: bool | Literal["auto"] = "auto") -> None:
        torch.set_num_threads(threads)
        self._device = device
        self._at_once = not device.startswith("cpu")
        self._network = vocoder.load(device, bf16, threads)
        self._predictor, self._memory = MomentPredictor.load(), VoiceMemory()
        self._warm_up()

    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray | SpeechError]:
        """Compute mono float32 (n,) within ±0.9 for each Mel, with its silent edges cut to 80 ms."""
        return [sound if isinstance(sound, SpeechError) else sound[0] for sound in self.vocode_timed(mels)]

    def vocode_timed(self, mels: Sequence[Mel]) -> list[tuple[np.ndarray, float] | SpeechError]:
        """Compute what `vocode` does, each with the seconds of silence that were cut off before it."""
        if not self._at_once or len(mels) == 1:
            return [_guarded(self._one, mel) for mel in mels]
        try:
            return list(self._batch(mels))
        except Exception:
            logger.exception("a batch of %d could not be vocoded; trying its members one by one", len(mels))
            return [_guarded(self._one, mel) for mel in mels]

    def vocode_chunks(self, chunks: Sequence[tuple[MelChunk, int]]) -> list[ChunkAudio | SpeechError]:
        """Compute the sound of divisible mels as far as the chunks' `seconds` of it, behind what was given out.

        It begins 80 ms before the speech. What is left of a mel is computed whole where its voice is not known yet, and
        on a GPU. `kept` is what is expected of the whole sound, float16 (18433,).
        """
        return [_guarded(self._part, chunk, given) for chunk, given in chunks]

    @torch.inference_mode()
    def _part(self, chunk: MelChunk, given: int) -> ChunkAudio:
        mel, network = Mel(chunk.arrays, chunk.seconds), self._network
        if not isinstance(network, CpuVocoder):
            whole, cut_s = self._one(mel)
            return ChunkAudio(whole[given:], complete=True, cut_s=cut_s)
        speaker, kept = chunk.arrays["speaker"].tobytes(), chunk.kept
        if kept is None and not self._memory.knows(speaker):
            whole, cut_s = self._learn(network, mel)
            return ChunkAudio(whole[given:], complete=True, cut_s=cut_s)
        sound = sound_of(network, chunk.arrays)
        if kept is None:
            kept = self._memory.corrected(speaker, self._expect(network, sound)).row.astype(np.float16)
        first, last = _edges(chunk.arrays["spoken"], sound.columns)
        start = first + given // vocoder.SAMPLES_PER_COLUMN
        cut_s = first * vocoder.SAMPLES_PER_COLUMN / vocoder.SAMPLE_RATE
        end = last
        if not chunk.final:
            end = min(last, first + round(chunk.seconds * vocoder.SAMPLE_RATE) // vocoder.SAMPLES_PER_COLUMN)
        if start >= end:
            return ChunkAudio(np.zeros(0, np.float32), kept=kept, cut_s=cut_s)
        expected = Expected.of(kept, sound.columns)
        waveform = network.part(sound, slice(start, end), expected.moments).numpy()
        gain = float(chunk.arrays["gain"][0])
        return ChunkAudio(
            finish_part(waveform, vocoder.SAMPLE_RATE, expected.lufs, gain, first=not given, last=chunk.final),
            kept=kept,
            cut_s=cut_s,
        )

    def _expect(self, network: CpuVocoder, sound: Sound) -> Expected:
        return self._predictor.expect(network.known(sound), sound.style[:STYLE], sound.columns)

    def probe(self) -> np.ndarray:
        """Return 50 ms of sound (n,) with its edges uncut, because the place of a cut may depend on rounding."""
        return self._waveforms([_noise(4)])[0]

    def _one(self, mel: Mel) -> tuple[np.ndarray, float]:
        # A voice that was never waited for teaches nothing: its whole answers would take longer for it.
        if isinstance(self._network, CpuVocoder) and self._memory.wants(mel.arrays["speaker"].tobytes()):
            return self._learn(self._network, mel)
        return self._batch([mel])[0]

    @torch.inference_mode()
    def _learn(self, network: CpuVocoder, mel: Mel) -> tuple[np.ndarray, float]:
        """Compute a whole sound, and remember by how much what is expected of it is off."""
        sound = sound_of(network, mel.arrays)
        waveform, measured = moments.whole(network, sound)
        if measured.lufs > SILENT_LUFS:
            self._memory.learn(mel.arrays["speaker"].tobytes(), self._expect(network, sound), measured)
        finished, trimmed = finish(waveform, vocoder.SAMPLE_RATE, mel.arrays["gain"][0])
        return finished, trimmed / vocoder.SAMPLE_RATE

    def _batch(self, mels: Sequence[Mel]) -> list[tuple[np.ndarray, float]]:
        sounds = []
        for padded, mel in zip(self._waveforms(mels), mels, strict=True):
            waveform = padded[: mel.arrays["features"].shape[1] * vocoder.SAMPLES_PER_COLUMN]
            sound, trimmed = finish(waveform, vocoder.SAMPLE_RATE, mel.arrays["gain"][0])
            sounds.append((sound, trimmed / vocoder.SAMPLE_RATE))
        return sounds

    def _waveforms(self, mels: Sequence[Mel]) -> np.ndarray:
        columns = [mel.arrays["features"].shape[1] for mel in mels]
        features = torch.zeros(len(mels), 512, max(columns), device=self._device)
        pitch = torch.zeros(len(mels), max(columns), device=self._device)
        for i, (mel, valid) in enumerate(zip(mels, columns, strict=True)):
            features[i, :, :valid] = torch.tensor(mel.arrays["features"])
            pitch[i, :valid] = torch.tensor(mel.arrays["f0"])
        styles = torch.tensor(np.stack([mel.arrays["style"] for mel in mels]), device=self._device)
        seeds = [int(mel.arrays["seed"][0]) for mel in mels]
        rows = deltas.stacked([mel.arrays.get(deltas.OF_VOCODER) for mel in mels], self._device)
        return self._network(features, pitch, styles, torch.tensor(columns), seeds, rows).cpu().numpy()

    def _warm_up(self) -> None:
        if isinstance(self._network, CpuVocoder):
            self._network.warm_up()
        for columns in (100, 200):  # the first call of each size is slower than the next
            self._batch([_noise(columns)])


def _speaker(voice: Arrays, language: str) -> np.ndarray:
    """Return a hash of what tells voices apart, uint8 (16,)."""
    digest = hashlib.blake2b(language.encode(), digest_size=16)
    for name in sorted(voice):
        digest.update(np.ascontiguousarray(voice[name]).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def sound_of(network: CpuVocoder, arrays: Arrays) -> Sound:
    """Prepare a Mel's sound."""
    features, pitch = (torch.tensor(arrays[name])[None] for name in ("features", "f0"))
    rows = deltas.stacked([arrays.get(deltas.OF_VOCODER)], "cpu")
    style = with_deltas(torch.tensor(arrays["style"])[None], rows)[0]
    return network.sound(features, pitch, style, int(arrays["seed"][0]))


def _edges(spoken: np.ndarray, columns: int) -> tuple[int, int]:
    """Return the columns of a sound with as much of its silent edges as is heard, and a little more at the end."""
    first, last = spoken.tolist()
    return max(0, first - 2 * _HEARD_BEFORE - _MARGIN_COLUMNS), min(columns, last + 2 * _MARGIN_COLUMNS)


def _noise(columns: int) -> Mel:
    """Make random features, the same every time."""
    features = np.random.default_rng(0).standard_normal((512, columns), np.float32)
    return Mel(
        {
            "features": features,
            "f0": np.full(columns, 120, np.float32),
            "style": np.zeros(128, np.float32),
            "gain": np.ones(1, np.float32),
            "seed": np.zeros(1, np.int64),
            "speaker": np.zeros(16, np.uint8),
        },
        columns / 80,
    )


@dataclass(frozen=True)
class _Piece:
    features: np.ndarray  #: (512, 2n)
    f0: np.ndarray  #: (2n,)
    silences: tuple[int, int]  #: frames of boundary, punctuation and spaces before and after the speech
    pause: int  #: frames of silence that stay on either side of a join after it
    spoken: np.ndarray  #: (p, 2) first frame of each phoneme, and the one behind its last


@dataclass(frozen=True)
class _Whole:
    features: np.ndarray  #: (512, c)
    f0: np.ndarray  #: (c,)
    phonemes: list[np.ndarray]  #: for each piece the frames of its phonemes in the whole, (p, 2)
    spoken: tuple[int, int]  #: the columns between the silent edges


def _join(pieces: list[_Piece]) -> _Whole:
    """Join features and pitch of the whole text, with a short pause between its parts."""
    features, f0, spoken = [], [], []
    columns = 0
    for i, piece in enumerate(pieces):
        first = 0 if i == 0 else 2 * max(0, piece.silences[0] - pieces[i - 1].pause)
        last = len(piece.f0)
        if i < len(pieces) - 1:
            last -= 2 * max(0, piece.silences[1] - piece.pause)
        features.append(piece.features[:, first:last])
        f0.append(piece.f0[first:last])
        spoken.append(piece.spoken + (columns - first) // 2)
        columns += last - first
    edges = 2 * pieces[0].silences[0], columns - 2 * pieces[-1].silences[1]
    return _Whole(np.concatenate(features, axis=1), np.concatenate(f0), spoken, edges)


def _timings(plan: _Plan, spoken: list[np.ndarray]) -> Timings:
    """Find the written words; `spoken` holds the frames of each part's phonemes, (p, 2)."""
    between = np.zeros((1, 2), np.int64)  # the space between two parts, during which nothing is said
    frames = [row for number, part in enumerate(spoken) for row in ([between] if number else []) + [part]]
    seconds = (np.concatenate(frames) - _HEARD_BEFORE).clip(min=0) * (
        2 * vocoder.SAMPLES_PER_COLUMN / vocoder.SAMPLE_RATE
    )
    return text.timing.timings(AlignedText.joined(plan.phonemes, " "), seconds, plan.text)


def _guarded(function: Callable[..., R], *arguments: Any) -> R | SpeechError:
    """Return the function's result, the SpeechError it raises, or an InternalError for any other failure."""
    try:
        return function(*arguments)
    except SpeechError as error:
        return error
    except Exception:
        logger.exception("one member of a batch failed in %s", function.__qualname__)
        return InternalError("The speech engine failed on this text. The trace and the server's log say more.")
