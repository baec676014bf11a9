"""Measure what a fit makes of a steered voice, on real speakers and unseen sentences, by a model that was not fitted.

    python -m bench.fitting [--speakers 3 | --development] [--sentences 3] [--threads 2] [--reference clean]
                            [--loss both] [--again | --kept]

Each speaker's recording is enrolled and fitted. The steered and the fitted voice then say the same sentences.

- VoiceFilter, which had no part in the fit, and CAM++ and GE2E, which are fitted: cosine similarity to the own
  reference, and the share of clips for which that is the nearest of all. Always against the clean recording.
- The normalised score: 0 is the mean similarity of a recording's first half to the second halves of strangers, 1 that
  to its own second half.
- DNSMOS and WER as in `bench.voice`; the share of fits that are kept, with the reasons of the others.
- Over the kept voices, how often each of these rose, and the largest fall: the check should have refused it.
- Seconds and CPU seconds of a fit, the memory of the process, and the time that speech takes with either voice.

`--reference noise` fits to the recording with noise at 15 dB, `room` to the recording in a room, and `half` to its
first half. That is measured against the second half, the nearest thing to another recording of the same person.

`--loss ge2e` or `campplus` fits to one model alone. The default is what the engine does.

`--development` takes six speakers on which settings are tried; none of them is among the 24 of `--speakers 12`.

Each speaker is kept in `outputs/bench/fitting` at once, and taken from there by the next run of the same version with
the same options. So a run may be cut off and go on, and several may share the work. `--again` makes all of them anew,
as is needed when the code of fits has changed. `--kept` only reports.

Nothing has a target here: the figures are for docs/benchmarks.md. Needs requirements-test.txt and
requirements-test-data.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import results
from bench.measuring.asr import transcribe, word_errors, words
from bench.measuring.quality import dnsmos
from bench.measuring.references import Recording, chosen, development
from bench.measuring.speakers import JUDGES, agreement
from bench.voice import SENTENCES, Studio
from engines.contract import FitOutcome, Voice, create
from engines.embedded import campplus, speaker
from engines.embedded.fitting import Listener, VoiceFitter
from voices import engine_arrays

LOSSES = {"ge2e": ("dvector",), "campplus": (campplus.TARGET,), "both": ("dvector", campplus.TARGET)}
REFERENCES = ("clean", "noise", "room", "half")
#: a speaker that another run has begun this long ago is taken to be left
LEFT_AFTER_S = 1200.0


@dataclass(frozen=True)
class Kept:
    """The folder of one kind of run: a file of figures and one of voices for each speaker."""

    folder: Path

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a speaker's figures; None if they are not there yet."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def begin(self, name: str) -> bool:
        """Claim a speaker that is not there; False if it is, or another run works on it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        claim = self.folder / f"{name}.begun"
        if (self.folder / f"{name}.json").is_file():
            return False
        if claim.exists() and time.time() - claim.stat().st_mtime > LEFT_AFTER_S:
            claim.unlink(missing_ok=True)
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def write(self, name: str, figures: dict[str, Any], steered: Voice, fitted: Voice) -> None:
        """Keep a speaker's figures and voices, and end the claim."""
        for kind, voice in (("steered", steered), ("fitted", fitted)):
            (self.folder / f"{name}.{kind}.npz").write_bytes(engine_arrays.pack(voice.arrays))
        (self.folder / f"{name}.json").write_text(json.dumps(figures), encoding="utf-8")
        self.end(name)

    def end(self, name: str) -> None:
        """End the claim on a speaker."""
        (self.folder / f"{name}.begun").unlink(missing_ok=True)

    def voice(self, name: str, kind: str) -> Voice:
        """Return a kept voice, `steered` or `fitted`."""
        return Voice(engine_arrays.unpack((self.folder / f"{name}.{kind}.npz").read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fitting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speakers", type=int, default=3, help="of each language (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES), choices=range(1, len(SENTENCES) + 1))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--development", action="store_true", help="take the speakers on which settings are tried")
    parser.add_argument("--loss", choices=LOSSES, default="both")
    parser.add_argument("--reference", choices=REFERENCES, default="clean")
    parser.add_argument("--again", action="store_true", help="make the speakers anew that an earlier run has kept")
    parser.add_argument("--kept", action="store_true", help="report what earlier runs kept, and fit no more")
    arguments = parser.parse_args()

    engine = create("embedded")
    sentences = SENTENCES[: arguments.sentences]
    people = development() if arguments.development else chosen(arguments.speakers)
    kinds = [arguments.reference] * (arguments.reference != "clean") + [arguments.loss] * (arguments.loss != "both")
    kept = kept_of(engine.capabilities.version, *kinds, f"{len(sentences)}-sentences")
    if arguments.again:
        for one in people:
            (kept.folder / f"{one.name}.json").unlink(missing_ok=True)
    if not arguments.kept:
        make(people, kept, sentences, arguments.threads, arguments.loss, arguments.reference)
    rows = [row for one in people if (row := kept.read(one.name)) is not None]
    if not rows:
        sys.exit("no speaker is kept yet. If another run is at work on them, run this again when it has ended")
    report = summary(rows)
    show(report)
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
            "speakers": [row["name"] for row in rows],
            **report,
        },
    )
    print(f"\nwritten: {path}")


def kept_of(version: str, *kinds: str) -> Kept:
    """Return the folder for a version of the engine and a kind of run."""
    return Kept(results.RAW / "fitting" / "_".join([version, *kinds]))


def make(
    people: list[Recording], kept: Kept, sentences: tuple[str, ...], threads: int, loss: str, reference: str
) -> None:
    """Fit and measure the speakers that are not kept yet, by turns of both languages: a run may be cut off."""
    models: tuple[Studio, VoiceFitter] | None = None
    half = -(-len(people) // 2)
    for one in sorted(people, key=lambda one: people.index(one) % half):
        if not kept.begin(one.name):
            continue
        try:
            if models is None:
                models = Studio(create("embedded"), threads), fitter_for(loss, threads)
            row, steered, fitted = measure_one(*models, one, sentences, reference)
            kept.write(one.name, row, steered, fitted)
        finally:
            kept.end(one.name)


def fitter_for(loss: str, threads: int) -> VoiceFitter:
    """Load a fitter that follows the named speaker models."""
    made = {
        "dvector": lambda: Listener("dvector", speaker.load_network().requires_grad_(False).embed),
        campplus.TARGET: lambda: Listener(campplus.TARGET, campplus.load_network().embed),
    }
    return VoiceFitter(threads=threads, listeners=None if loss == "both" else [made[name]() for name in LOSSES[loss]])


def measure_one(
    studio: Studio, fitter: VoiceFitter, person: Recording, sentences: tuple[str, ...], kind: str
) -> tuple[dict[str, Any], Voice, Voice]:
    """Enrol a recording, as it is or spoilt, fit its voice, and measure what both voices say.

    Returns:
        The figures, the steered voice, and the one that is used after the fit.
    """
    samples, rate = person.clip.samples, person.clip.rate
    given = spoilt(samples, rate, kind)
    steered = studio.voice(given, rate)
    begun = fitter.begin(steered, None, lambda: create("embedded").prepare(given, rate))
    wall, cpu = time.perf_counter(), time.process_time()
    while begun.outcome is None:
        begun.advance()
    outcome = begun.outcome
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    middle = len(samples) // 2
    row = {
        "name": person.name,
        "fit": {**of_outcome(outcome), **took, "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024},
        "recording": {
            judge: {
                "whole": listen(samples, rate).tolist(),
                "first": listen(samples[:middle], rate).tolist(),
                "second": listen(samples[middle:], rate).tolist(),
            }
            for judge, listen in JUDGES.items()
        },
        "against": "second" if kind == "half" else "whole",
        "steered": measure(studio, steered, sentences),
        "fitted": measure(studio, outcome.voice, sentences),
    }
    print(
        f"{person.name}: {outcome.steps} steps, {outcome.stopped}, loss {outcome.loss_before:.3f} -> "
        f"{outcome.loss_after:.3f}, {outcome.why or 'kept'}, {took['wall_s']:.1f} s, {took['cpu_s']:.1f} s of CPU",
        file=sys.stderr,
        flush=True,
    )
    return row, steered, outcome.voice


def of_outcome(outcome: FitOutcome) -> dict[str, Any]:
    """Return what the engine says of a fit, for a file."""
    return {
        "kept": outcome.kept,
        "why": outcome.why,
        "stopped": outcome.stopped,
        "steps": outcome.steps,
        "loss_before": outcome.loss_before,
        "loss_after": outcome.loss_after,
        "changes": dict(outcome.changes),
    }


def spoilt(samples: np.ndarray, rate: int, kind: str) -> np.ndarray:
    """Return the first half, or add white noise 15 dB below the speech, or a room with 0.4 s of echo as loud as it."""
    random = np.random.default_rng(0)
    level = np.sqrt(np.square(samples).mean())
    if kind == "half":
        return samples[: len(samples) // 2]
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


def measure(studio: Studio, voice: Voice, sentences: tuple[str, ...]) -> dict[str, Any]:
    """Let a voice say the sentences, and listen to them: each list has one entry a sentence."""
    started = time.process_time()
    waves = [studio.speak(voice, text) for text in sentences]
    cpu_s = time.process_time() - started
    heard = [transcribe(wave, studio.rate) for wave in waves]
    return {
        "cpu_s": cpu_s,
        "audio_s": sum(len(wave) for wave in waves) / studio.rate,
        "heard": heard,
        "errors": sum(word_errors(words(text), words(one)) for text, one in zip(sentences, heard, strict=True)),
        "words": sum(len(words(text)) for text in sentences),
        "dnsmos": [dnsmos(wave, studio.rate).overall for wave in waves],
        "made": {judge: [listen(wave, studio.rate).tolist() for wave in waves] for judge, listen in JUDGES.items()},
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute the figures of a run from its speakers'."""
    speech = {kind: of_speech(rows, kind) for kind in ("steered", "fitted")}
    return {"speech": speech, "halves": halves(rows), "fits": of_fits(rows) | gains(rows, speech)}


def halves(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return, by model, the mean similarity of recordings' first halves to their own second halves, and to others'."""
    found = {}
    for judge in JUDGES:
        first, second = (np.array([row["recording"][judge][part] for row in rows]) for part in ("first", "second"))
        similarity = first @ second.T
        own = np.eye(len(rows), dtype=bool)
        found[f"{judge} own"] = float(similarity[own].mean())
        found[f"{judge} other"] = float(similarity[~own].mean()) if len(rows) > 1 else float("nan")
    return found


def of_speech(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the figures of all steered or all fitted voices, and `each`: those of each voice, over the sentences."""
    ends, each, found = halves(rows), {}, {}
    for judge in JUDGES:
        references = np.array([row["recording"][judge][row["against"]] for row in rows])
        made = np.array([row[kind]["made"][judge] for row in rows])  # (speakers, sentences, numbers)
        over = [agreement(made[:, sentence], references) for sentence in range(made.shape[1])]
        own = float(np.mean([one["own"] for one in over]))
        found[f"{judge} own"] = own
        found[f"{judge} other"] = float(np.mean([one["other"] for one in over]))
        found[f"{judge} nearest of {len(rows)}"] = float(np.mean([one["top1"] for one in over]))
        found[f"{judge} normalised"] = (own - ends[f"{judge} other"]) / (ends[f"{judge} own"] - ends[f"{judge} other"])
        each[judge] = (made * references[:, None]).sum(2).mean(1).round(3).tolist()
    opinions = np.array([row[kind]["dnsmos"] for row in rows])
    each["DNSMOS"] = opinions.mean(1).round(3).tolist()
    return {
        **found,
        "DNSMOS mean": float(opinions.mean()),
        "DNSMOS worst": float(opinions.min()),
        "WER": sum(row[kind]["errors"] for row in rows) / sum(row[kind]["words"] for row in rows),
        "CPU seconds of a second of speech": sum(row[kind]["cpu_s"] for row in rows)
        / sum(row[kind]["audio_s"] for row in rows),
        "each": each,
    }


def of_fits(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the fits themselves."""
    fits = [row["fit"] for row in rows]
    return {
        "kept": sum(one["kept"] for one in fits),
        "of": len(fits),
        "not kept": {row["name"]: row["fit"]["why"] for row in rows if not row["fit"]["kept"]},
        "steps, mean": float(np.mean([one["steps"] for one in fits])),
        "seconds, mean": float(np.mean([one["wall_s"] for one in fits])),
        "CPU seconds, mean": float(np.mean([one["cpu_s"] for one in fits])),
        "memory of the process, MB": max(one["memory_mb"] for one in fits),
        "changes": {name: [round(one["changes"][name], 3) for one in fits] for name in fits[0]["changes"]},
    }


def gains(rows: list[dict[str, Any]], speech: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return, over the kept voices, how often each measure rose, and the largest fall."""
    kept = np.array([row["fit"]["kept"] for row in rows])
    if not kept.any():
        return {}
    found: dict[str, Any] = {}
    for name, before in speech["steered"]["each"].items():
        change = (np.array(speech["fitted"]["each"][name]) - before)[kept]
        found[f"share of kept voices with more {name}"] = float((change > 0).mean())
        found[f"least change of {name}"] = round(float(change.min()), 3)
    return found


def show(report: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{'':40}{'steered':>10}{'fitted':>10}")
    steered, fitted = report["speech"]["steered"], report["speech"]["fitted"]
    for name in [name for name in steered if name != "each"]:
        print(f"{name:40}{steered[name]:10.3f}{fitted[name]:10.3f}")
    for name, value in {**report["halves"], **report["fits"]}.items():
        print(f"{name:40}{value if not isinstance(value, float) else round(value, 3)}")


if __name__ == "__main__":
    main()
