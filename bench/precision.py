"""Measure what packed weights in the acoustic model gain, and what they do to the sound: `python -m bench.precision`.

Real speakers each say sentences, and clauses of two to seven words: in float32, and in bfloat16 and 8-bit integers as
far as this CPU has them (`engines/embedded/packed_layers.py`), all vocoded alike. Compared are the acoustic model's CPU
time, DNSMOS, Whisper's errors, length, and pitch. It takes a few minutes, and the results are in
bench/results/precision.json.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import results
from bench.measuring.references import chosen
from bench.parts import judged, pieces
from engines.contract import Mel, Voice, create
from engines.embedded.packed_layers import Precision
from engines.embedded.packed_network import fastest
from engines.embedded.stages import EmbeddedAcousticModel
from speech.utterance import Utterance

EXACT: Precision = "float32"  #: what the others are compared with


def melody(mel: Mel) -> tuple[float, float]:
    """Return the mean and the deviation of a mel's voiced pitch, in semitones."""
    pitch = mel.arrays["f0"]
    semitones = 12 * np.log2(pitch[pitch > 60])
    return float(semitones.mean()), float(semitones.std())


def made(acoustic: EmbeddedAcousticModel, utterance: Utterance, voice: Voice) -> tuple[Mel, float]:
    """Return the mel, and the CPU seconds that it took."""
    began = time.process_time()
    [mel] = acoustic.generate([(utterance, voice)])
    assert isinstance(mel, Mel)
    return mel, time.process_time() - began


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.precision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speakers", type=int, default=6, help="of each language (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=2, help="and as many clauses (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()
    forms: list[Precision] = list(dict.fromkeys((EXACT, fastest(), fastest(bf16=False))))
    if forms == [EXACT]:
        parser.error("This CPU has neither AMX nor VNNI, so the engine computes in float32 here.")
    engine = create("embedded")
    encoder, vocoder = engine.load_speaker_encoder(), engine.load_vocoder("cpu", arguments.threads)
    acoustics = {form: EmbeddedAcousticModel("cpu", arguments.threads, form) for form in forms}
    rows: list[dict[str, Any]] = []
    for number, person in enumerate(chosen(arguments.speakers)):
        [voice] = encoder.encode([engine.prepare(person.clip.samples, person.clip.rate)])
        assert isinstance(voice, Voice)
        for text in pieces(arguments.sentences, number):
            row: dict[str, Any] = {"speaker": person.name, "text": text}
            for form, acoustic in acoustics.items():
                mel, cpu_s = made(acoustic, Utterance(text, "en-US", seed=number), voice)
                [sound] = vocoder.vocode([mel])
                assert isinstance(sound, np.ndarray)
                mean, spread = melody(mel)
                found = judged(sound, engine.capabilities.sample_rate, text)
                row[form] = found | {"mel_s": mel.seconds, "cpu_s": cpu_s, "pitch": mean, "spread": spread}
            rows.append(row)
            print(
                f"{person.name:24} {len(text):4} "
                + "  ".join(f"{row[form]['dnsmos']:.2f} {1000 * row[form]['cpu_s']:.0f} ms" for form in forms),
                flush=True,
            )
    results.write("precision", figures(rows, forms), {"pieces": rows})


def figures(rows: list[dict[str, Any]], forms: Sequence[str]) -> dict[str, Any]:
    """Sum the rows up, for each form."""
    return {"pieces": len(rows), **{form: _figures(rows, form) for form in forms}}


def _figures(rows: list[dict[str, Any]], form: str) -> dict[str, Any]:
    def column(name: str, form: str = form) -> np.ndarray:
        return np.array([row[form][name] for row in rows])

    def change(name: str) -> np.ndarray:
        return column(name) - column(name, EXACT)

    words_said = sum(len(row["text"].split()) for row in rows)
    found = {
        "dnsmos": round(float(column("dnsmos").mean()), 3),
        "word_error_rate": round(float(column("errors").sum()) / words_said, 4),
        "cpu_ms_p50": round(1000 * float(np.median(column("cpu_s"))), 1),
        "pitch_spread_semitones_mean": round(float(column("spread").mean()), 2),
    }
    if form == EXACT:
        return found
    dnsmos = change("dnsmos")
    return found | {
        "dnsmos_change": round(float(dnsmos.mean()), 3),
        "dnsmos_two_standard_errors": round(2 * float(dnsmos.std()) / math.sqrt(len(rows)), 3),
        "dnsmos_worst": round(float(dnsmos.min()), 3),
        "cpu_share_p50": round(float(np.median(column("cpu_s") / column("cpu_s", EXACT))), 3),
        "length_off_share_p50": round(float(np.median(np.abs(change("mel_s")) / column("mel_s", EXACT))), 4),
        "pitch_off_semitones_mean": round(float(np.abs(change("pitch")).mean()), 3),
    }


if __name__ == "__main__":
    main()
