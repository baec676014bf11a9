"""Measure how well a voice that was fitted says other languages than that of its clip, against the steered voice.

    python -m bench.fitting --speakers 12                  makes and keeps the voices
    python -m bench.fitted_languages [--voices en_michael de_danio] [--language zh ja] [--sentences 15] [--threads 1]

The sentences of `bench.recognised`, spread evenly, by voices of `bench.fitting`; the same recogniser (Whisper base) and
notation. English by German voices is in `bench.fitting` itself. Each transcript is kept at once in
`outputs/bench/fitted_languages.jsonl`, so that a run may be cut off and go on. There is no target: the figures are for
docs/speed.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bench import results
from bench.fitting import Kept, kept_of
from bench.measuring.asr import word_errors
from bench.measuring.notation import characters, syllables
from bench.measuring.references import chosen
from bench.recognised import DIALECTS, sentences, transcribe, transcripts
from bench.voice import SENTENCES, Studio
from engines.contract import Utterance, create

KEPT = results.RAW / "fitted_languages.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fitted_languages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--voices", nargs="+", help="speakers (default: the first kept English and German ones)")
    parser.add_argument("--language", nargs="+", choices=DIALECTS, default=list(DIALECTS))
    parser.add_argument("--sentences", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    engine = create("embedded")
    version = engine.capabilities.version
    kept = kept_of(version, f"{len(SENTENCES)}-sentences")
    names = arguments.voices or first_kept(kept)
    studio = Studio(engine, arguments.threads)

    def heard(sentence: str, language: str, voice: str) -> str:
        name, kind = voice.split(" ")
        wave = studio.say(kept.voice(name, kind), Utterance(sentence, DIALECTS[language]))
        return transcribe(wave, studio.rate, language, arguments.threads)

    rows = []
    for language in arguments.language:
        texts = spread(sentences(language), arguments.sentences)
        for kind in ("steered", "fitted"):
            wanted = [(language, f"{name} {kind}", text) for name in names for text in texts]
            pairs = [(key[2], said) for key, said in transcripts(wanted, Path(KEPT), version, heard)]
            rows.append({"language": language, "voice": kind, **errors(language, pairs)})
            print(rows[-1], flush=True)
    path = results.write(
        "fitted_languages",
        {"version": version, "voices": names, "sentences": arguments.sentences, "rows": rows},
    )
    print(f"\nwritten: {path}")


def first_kept(kept: Kept) -> list[str]:
    """Return the first English and the first German speaker whose fit was kept."""
    fitted = [one.name for one in chosen(12) if (row := kept.read(one.name)) is not None and row["fit"]["kept"]]
    found = [next((name for name in fitted if name.startswith(language)), None) for language in ("en", "de")]
    return [name for name in found if name is not None]


def spread(texts: list[str], count: int) -> list[str]:
    """Return `count` of the texts, evenly spread."""
    return [texts[int(index)] for index in np.linspace(0, len(texts) - 1, count)]


def errors(language: str, pairs: list[tuple[str, str]]) -> dict[str, float | int]:
    """Return the character error rate of (said, heard) pairs, and for Mandarin that of syllables with tones."""
    found: dict[str, float | int] = {"sentences": len(pairs)}
    notations = {"character error rate": lambda text: characters(text, language)}
    if language == "zh":
        notations["syllable error rate"] = syllables
    for name, notation in notations.items():
        wrong = sum(word_errors(notation(said), notation(heard)) for said, heard in pairs)
        found[name] = round(wrong / sum(len(notation(said)) for said, _ in pairs), 4)
    return found


if __name__ == "__main__":
    main()
