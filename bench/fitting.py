"""Measure what a fit makes of a steered voice, on real speakers and unseen sentences, by a model that was not fitted.

    python -m bench.fitting [--speakers 3 | --development] [--sentences 3] [--threads 2] [--reference clean]
                            [--loss ge2e]

Each speaker's recording is enrolled and fitted. The steered and the fitted voice then say the same sentences.

- CAM++, which had no part in the fit, and GE2E, which is fitted: cosine similarity to the own reference, and the share
  of clips for which that is the nearest of all. Always against the clean recording.
- DNSMOS and WER as in `bench.voice`; the share of fits that are kept, with the reasons of the others.
- Over the kept voices, how often each of these rose, and the largest fall: the check should have refused it.
- Seconds and CPU seconds of a fit, the memory of the process, and the time that speech takes with either voice.

`--loss campplus` fits to CAM++ instead, so that GE2E is the model that had no part in it; `--loss both` fits to both,
and leaves DNSMOS and WER alone as independent measures. The default is what the engine does.

`--development` takes six speakers on which settings are tried; none of them is among the 24 of `--speakers 12`.

`--reference noise` fits to the recording with noise at 15 dB, `room` to the recording in a room. Nothing has a target
here: the figures are for docs/benchmarks.md. Needs requirements-test.txt and requirements-test-data.txt.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench import results
from bench.measuring.asr import transcribe, word_errors, words
from bench.measuring.quality import dnsmos
from bench.measuring.references import Recording, chosen, development
from bench.measuring.speakers import agreement, campplus, campplus_embedding, ge2e
from bench.voice import SENTENCES, Studio
from engines.contract import FitOutcome, Voice, create
from engines.embedded.fitting import Listener, VoiceFitter
from engines.embedded.speaker import load_network

JUDGES = {"CAM++": campplus, "GE2E": ge2e}
LISTENERS = {
    "GE2E": lambda: Listener("dvector", load_network().requires_grad_(False).embed),
    "CAM++": lambda: Listener("campplus", campplus_embedding),
}
LOSSES = {"ge2e": ("GE2E",), "campplus": ("CAM++",), "both": ("GE2E", "CAM++")}


@dataclass(frozen=True)
class Fitted:
    """Holds the figures of one speaker's fit."""

    person: Recording
    steered: Voice
    outcome: FitOutcome
    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fitting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speakers", type=int, default=3, help="of each language (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES), choices=range(1, len(SENTENCES) + 1))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--development", action="store_true", help="take the speakers on which settings are tried")
    parser.add_argument("--loss", choices=LOSSES, default="ge2e")
    parser.add_argument("--reference", choices=("clean", "noise", "room"), default="clean")
    arguments = parser.parse_args()

    engine = create("embedded")
    studio = Studio(engine, arguments.threads)
    fitter = VoiceFitter(threads=arguments.threads, listeners=[LISTENERS[name]() for name in LOSSES[arguments.loss]])
    people = development() if arguments.development else chosen(arguments.speakers)
    fits = [fit(studio, fitter, one, arguments.reference) for one in people]
    references = {
        name: np.stack([listen(one.clip.samples, one.clip.rate) for one in people]) for name, listen in JUDGES.items()
    }
    sentences = SENTENCES[: arguments.sentences]
    voices = {
        "steered": [one.steered for one in fits],
        "fitted": [one.outcome.voice for one in fits],
    }
    figures = {name: measure(studio, voice, sentences, references) for name, voice in voices.items()}
    report = {"speech": figures, "fits": summary(fits) | gains(fits, figures)}
    show(report)
    kinds = [arguments.reference] * (arguments.reference != "clean") + [arguments.loss] * (arguments.loss != "ge2e")
    path = results.write(
        "_".join(["fitting", *["development"] * arguments.development, *kinds]),
        {
            "engine": engine.capabilities.name,
            "version": engine.capabilities.version,
            "device": "cpu",
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "load": [round(load, 1) for load in os.getloadavg()],
            "threads": arguments.threads,
            "reference": arguments.reference,
            "loss": arguments.loss,
            "sentences": sentences,
            "speakers": [one.name for one in people],
            **report,
        },
    )
    print(f"\nwritten: {path}")


def fit(studio: Studio, fitter: VoiceFitter, person: Recording, kind: str) -> Fitted:
    """Enrol a recording, as it is or spoilt, and fit its voice."""
    samples = spoilt(person.clip.samples, person.clip.rate, kind)
    steered = studio.voice(samples, person.clip.rate)
    begun = fitter.begin(Voice({**steered.arrays, "campplus": campplus(samples, person.clip.rate)}))
    wall, cpu = time.perf_counter(), time.process_time()
    while begun.outcome is None:
        begun.advance()
    found = Fitted(person, steered, begun.outcome, time.perf_counter() - wall, time.process_time() - cpu)
    outcome = begun.outcome
    print(
        f"{person.name}: {outcome.steps} steps, {outcome.stopped}, loss {outcome.loss_before:.3f} -> "
        f"{outcome.loss_after:.3f}, {outcome.why or 'kept'}, {found.wall_s:.1f} s, {found.cpu_s:.1f} s of CPU",
        file=sys.stderr,
        flush=True,
    )
    return found


def spoilt(samples: np.ndarray, rate: int, kind: str) -> np.ndarray:
    """Add white noise 15 dB below the speech, or a room with 0.4 s of echo as loud as the direct sound."""
    random = np.random.default_rng(0)
    level = np.sqrt(np.square(samples).mean())
    if kind == "noise":
        return (samples + random.normal(0, level * 10 ** (-15 / 20), len(samples))).astype(np.float32)
    if kind == "room":
        length = int(0.4 * rate)
        tail = random.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
        tail /= np.sqrt(np.square(tail).sum())
        size = len(samples) + length
        echo = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)[: len(samples)]
        both = samples + echo
        return (both * level / np.sqrt(np.square(both).mean())).astype(np.float32)
    return samples


def measure(
    studio: Studio, voices: list[Voice], sentences: tuple[str, ...], references: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Let all voices say all sentences, and measure the speech against the references of the same order.

    Returns:
        The figures over all voices, and `each`: those of each voice, over the sentences.
    """
    opinions: list[list[float]] = []
    errors, said, agreements = 0, 0, []
    own: list[dict[str, np.ndarray]] = []
    seconds = audio = 0.0
    for text in sentences:
        waves = []
        for voice in voices:
            started = time.process_time()
            waves.append(studio.speak(voice, text))
            seconds += time.process_time() - started
        audio += sum(len(wave) for wave in waves) / studio.rate
        heard = [transcribe(wave, studio.rate) for wave in waves]
        errors += sum(word_errors(words(text), words(one)) for one in heard)
        said += len(words(text)) * len(waves)
        opinions.append([dnsmos(wave, studio.rate).overall for wave in waves])
        made = {name: np.stack([listen(wave, studio.rate) for wave in waves]) for name, listen in JUDGES.items()}
        own.append({name: (vectors * references[name]).sum(1) for name, vectors in made.items()})
        agreements.append(
            {
                f"{name} {what}": value
                for name, vectors in made.items()
                for what, value in agreement(vectors, references[name]).items()
            }
        )
    return {
        **{name: float(np.mean([one[name] for one in agreements])) for name in agreements[0]},
        "DNSMOS mean": float(np.mean(opinions)),
        "DNSMOS worst": float(np.min(opinions)),
        "WER": errors / said,
        "CPU seconds of a second of speech": seconds / audio,
        "each": {
            "DNSMOS": np.mean(opinions, axis=0).round(3).tolist(),
            **{name: np.mean([one[name] for one in own], axis=0).round(3).tolist() for name in JUDGES},
        },
    }


def summary(fits: list[Fitted]) -> dict:
    """Compute the figures of the fits themselves."""
    return {
        "kept": sum(one.outcome.kept for one in fits),
        "of": len(fits),
        "not kept": {one.person.name: one.outcome.why for one in fits if not one.outcome.kept},
        "steps, mean": float(np.mean([one.outcome.steps for one in fits])),
        "seconds, mean": float(np.mean([one.wall_s for one in fits])),
        "CPU seconds, mean": float(np.mean([one.cpu_s for one in fits])),
        "memory of the process, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "changes": {name: [round(one.outcome.changes[name], 3) for one in fits] for name in fits[0].outcome.changes},
    }


def gains(fits: list[Fitted], figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compute, over the kept voices, how often each measure rose, and the largest fall."""
    kept = np.array([one.outcome.kept for one in fits])
    if not kept.any():
        return {}
    found: dict[str, Any] = {}
    for name, before in figures["steered"]["each"].items():
        change = (np.array(figures["fitted"]["each"][name]) - before)[kept]
        found[f"share of kept voices with more {name}"] = float((change > 0).mean())
        found[f"least change of {name}"] = round(float(change.min()), 3)
    return found


def show(report: dict) -> None:
    """Print the tables."""
    print(f"{'':40}{'steered':>10}{'fitted':>10}")
    steered, fitted = report["speech"]["steered"], report["speech"]["fitted"]
    for name in [name for name in steered if name != "each"]:
        print(f"{name:40}{steered[name]:10.3f}{fitted[name]:10.3f}")
    for name, value in report["fits"].items():
        print(f"{name:40}{value if not isinstance(value, float) else round(value, 1)}")


if __name__ == "__main__":
    main()
