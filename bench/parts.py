"""Measure what it costs in sound to make a piece part by part: `python -m bench.parts`.

The vocoder makes the parts with expected moments of the whole (`engines/embedded/moments.py`). Real speakers, whom the
map was not fitted to, each say sentences, and clauses of two to seven words. One sentence before them is made whole, as
a voice's first one always is. Each other piece is made twice from the same mel: in the parts that a listener would get,
and then whole, so that no sound was learned from before it is expected. Compared are DNSMOS, Whisper's errors,
loudness, the edges of words, and the CPU time until the first sound and for all of it.

The results are in bench/results/parts.json, with `--fitted` in parts_fitted.json: there each voice is fitted before.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from typing import Any

import numpy as np

from bench import results
from bench.measuring import texts
from bench.measuring.asr import transcribe, word_errors, words
from bench.measuring.quality import dnsmos
from bench.measuring.references import chosen
from deployments.ingress.part_plan import ends_of_parts
from engines.contract import (
    ChunkAudio,
    FitOutcome,
    Mel,
    MelChunk,
    Reference,
    StreamingVocoder,
    TimedVocoder,
    Voice,
    create,
)
from engines.embedded.fitting import VoiceFitter
from engines.embedded.loudness import TARGET_LUFS, measure
from speech.errors import SpeechError
from speech.utterance import Utterance
from speech.word_edges import heard_in, settled

FIRST = "A voice is heard for the first time with this sentence."


def pieces(count: int, seed: int) -> list[str]:
    """Return sentences, and as many clauses."""
    chance = random.Random(seed)
    sentences = [texts.sentence(chance) for _ in range(count)]
    clauses = [" ".join(texts.sentence(chance).rstrip(".").split()[: chance.randint(2, 7)]) + "," for _ in range(count)]
    return [text for pair in zip(sentences, clauses, strict=True) for text in pair]


def in_parts(vocoder: StreamingVocoder, mel: Mel, rate: int) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """Make the sound of a mel in parts.

    Returns:
        The sound, the edges of its words (u, 2) as they are told with each part, in seconds of the mel, the CPU seconds
        of the first part and of all, and how many there are.
    """
    assert mel.timings is not None
    ends = ends_of_parts(mel.seconds)
    made: list[np.ndarray] = []
    edges = np.zeros((0, 2))
    first_s, given, kept, began = 0.0, 0, None, time.process_time()
    for end in [*ends, None]:
        chunk = MelChunk(mel.arrays, mel.seconds if end is None else end, 0, final=end is None, kept=kept)
        [part] = vocoder.vocode_chunks([(chunk, given)])
        assert isinstance(part, ChunkAudio) and not part.complete, part
        kept = part.kept
        made.append(part.samples)
        given += len(part.samples)
        first_s = first_s or time.process_time() - began
        times, so_far = mel.timings.cut(part.cut_s, math.inf), np.concatenate(made)
        known = len(times.times) if end is None else settled(times, len(so_far) / rate)
        edges = np.concatenate([edges, heard_in(times, so_far, rate).times[len(edges) : known] + part.cut_s])
    return np.concatenate(made), edges, first_s, time.process_time() - began, len(made)


def fitted(fitter: VoiceFitter, voice: Voice, reference: Reference) -> FitOutcome:
    """Fit a voice."""
    begun = fitter.begin(voice, None, lambda: reference)
    while begun.outcome is None:
        begun.advance()
    return begun.outcome


def judged(sound: np.ndarray, rate: int, text: str) -> dict[str, float]:
    """Measure a sound."""
    return {
        "dnsmos": dnsmos(sound, rate).overall,
        "errors": word_errors(words(text), words(transcribe(sound, rate))),
        "lufs_off": measure(sound, rate).lufs - TARGET_LUFS,
        "peak": float(np.abs(sound).max()),
        "seconds": len(sound) / rate,
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.parts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speakers", type=int, default=6, help="of each language (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=2, help="and as many clauses (default: %(default)s)")
    parser.add_argument("--fitted", action="store_true", help="fit each voice first")
    parser.add_argument("--threads", type=int, default=2, help="of a fit (default: %(default)s)")
    arguments = parser.parse_args()
    engine = create("embedded")
    rate = engine.capabilities.sample_rate
    encoder, acoustic, vocoder = engine.load_speaker_encoder(), engine.load_acoustic_model(), engine.load_vocoder()
    assert isinstance(vocoder, StreamingVocoder) and isinstance(vocoder, TimedVocoder)
    fitter = VoiceFitter(threads=arguments.threads) if arguments.fitted else None
    rows: list[dict] = []
    for number, person in enumerate(chosen(arguments.speakers)):
        reference = engine.prepare(person.clip.samples, person.clip.rate)
        [voice] = encoder.encode([reference])
        assert isinstance(voice, Voice)
        if fitter is not None:
            outcome = fitted(fitter, voice, reference)
            if not outcome.kept:
                print(f"{person.name:24} is left out: its steered voice is kept", flush=True)
                continue
            voice = outcome.voice
        for place, text in enumerate([FIRST, *pieces(arguments.sentences, number)]):
            [mel] = acoustic.generate([(Utterance(text, "en-US", seed=number), voice)])
            assert isinstance(mel, Mel) and mel.divisible
            if not place:
                vocoder.vocode_chunks([(MelChunk(mel.arrays, mel.seconds, 0, final=True), 0)])
                continue
            parts, edges, first_s, all_s, count = in_parts(vocoder, mel, rate)
            began = time.process_time()
            [made] = vocoder.vocode_timed([mel])
            whole_s = time.process_time() - began
            assert not isinstance(made, SpeechError) and mel.timings is not None
            whole, cut_s = made
            told = heard_in(mel.timings.cut(cut_s, math.inf), whole, rate).times + cut_s
            row: dict[str, Any] = {
                "speaker": person.name,
                "text": text,
                "words": len(words(text)),
                "parts": count,
                "edges_off_ms": np.abs(1000 * (edges - told)).ravel().round(1).tolist(),
                "whole": judged(whole, rate, text) | {"cpu_s": whole_s},
                "in_parts": judged(parts, rate, text) | {"first_cpu_s": first_s, "cpu_s": all_s},
            }
            rows.append(row)
            print(
                f"{person.name:24} {count} DNSMOS {row['whole']['dnsmos']:.2f} {row['in_parts']['dnsmos']:.2f}  "
                f"LUFS {row['whole']['lufs_off']:+.2f} {row['in_parts']['lufs_off']:+.2f}  "
                f"{row['whole']['seconds']:.2f} s {row['in_parts']['seconds']:.2f} s  "
                f"first {first_s:.2f} of {whole_s:.2f} CPU s  {text}",
                flush=True,
            )
    name = "parts_fitted" if arguments.fitted else "parts"
    print(f"written: {results.write(name, summary(rows), raw={'pieces': rows})}")


def summary(rows: list[dict]) -> dict:
    """Return the figures of all pieces, and of sentences and clauses by themselves."""
    kinds = {
        "all": rows,
        "sentences": [row for row in rows if row["text"].endswith(".")],
        "clauses": [row for row in rows if row["text"].endswith(",")],
    }
    return {kind: figures(some) for kind, some in kinds.items()}


def figures(rows: list[dict]) -> dict[str, float]:
    """Return the figures of some pieces."""
    change = np.array([row["in_parts"]["dnsmos"] - row["whole"]["dnsmos"] for row in rows])
    edges = np.concatenate([row["edges_off_ms"] for row in rows])
    lufs = np.array([row["in_parts"]["lufs_off"] - row["whole"]["lufs_off"] for row in rows])
    return {
        "pieces": len(rows),
        "divided": sum(row["parts"] > 1 for row in rows),
        "dnsmos_whole": float(np.mean([row["whole"]["dnsmos"] for row in rows])),
        "dnsmos_in_parts": float(np.mean([row["in_parts"]["dnsmos"] for row in rows])),
        "dnsmos_change": float(change.mean()),
        "dnsmos_change_standard_error": float(change.std(ddof=1) / len(change) ** 0.5),
        "dnsmos_worst_change": float(change.min()),
        "wer_whole": sum(row["whole"]["errors"] for row in rows) / sum(row["words"] for row in rows),
        "wer_in_parts": sum(row["in_parts"]["errors"] for row in rows) / sum(row["words"] for row in rows),
        "loudness_off_db_mean": float(lufs.mean()),
        "loudness_off_db_rms": float(np.sqrt(np.mean(lufs**2))),
        "loudness_off_db_worst": float(np.abs(lufs).max()),
        "edges_off_ms_median": float(np.median(edges)),
        "edges_off_ms_p95": float(np.percentile(edges, 95)),
        "edges_off_ms_worst": float(edges.max()),
        "peak_highest": max(row["in_parts"]["peak"] for row in rows),
        "first_part_share_of_cpu": float(
            np.median([row["in_parts"]["first_cpu_s"] / row["whole"]["cpu_s"] for row in rows])
        ),
        "all_parts_share_of_cpu": float(np.median([row["in_parts"]["cpu_s"] / row["whole"]["cpu_s"] for row in rows])),
    }


if __name__ == "__main__":
    main()
