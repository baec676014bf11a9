"""Measure the embedded engine's word times against what Whisper hears, and against the sound itself.

    python -m bench.words [--sentences 50] [--threads 2]

Fifty English sentences of 3 to 37 words are spoken by three voices at five speeds, each sentence in one of the
combinations. Two recognisers (Whisper tiny.en and base, each from a package) tell when they hear each word. Words that
both have recognised are compared.

A recogniser errs, too. Its own error at a boundary is taken to be what the two recognisers differ by. An engine's time
is off beyond that by its distance to the nearer of the two, less their difference. Where the sound rises out of
silence, the beginning of a word is also compared with that rise, which needs no recogniser.
"""

from __future__ import annotations

import argparse
import re
from difflib import SequenceMatcher

import numpy as np

from bench import results
from bench.measuring.asr import timed_words, whisper_tiny
from bench.measuring.texts import DEMO_CLIP
from bench.recognised import whisper_base
from engines.contract import TimedVocoder, Utterance, Voice, create
from speech import audio
from speech.errors import SpeechError
from speech.words import Word

SENTENCES = """
Stop right there.|Nobody answered the door.|The kettle has just boiled.|She waved from the balcony.|Pack a warm coat.
My brother repairs old clocks.|We missed the ferry by two minutes.|A stray cat sleeps under our porch.
Please water the tomatoes before you leave.|The library closes early on Friday afternoons.
Fresh snow covered the village overnight, and every sound was muffled.
Could you tell me where the nearest pharmacy is?|He painted the fence green, then he painted it blue.
If the weather holds, we will reach the summit before noon.
The recipe asks for butter, sugar, eggs, and a pinch of salt.
Their new apartment has high ceilings but very thin walls.|I never thought that learning to swim could be so much fun.
The museum bought 12 paintings and sold 3 of them.|Tickets cost $25 at the door, or $20 online.
Dr. Morgan will see you at 10:30 in room seven.|About 1/3 of the visitors came by train.
The bridge, which was built in 1932, is being repaired.|It rained for 40 days, said the old sailor with a grin.
Bring me the small hammer, the long nails, and that piece of rope.
While the orchestra tuned its instruments, the audience whispered and coughed.
Most birds fly south in autumn; a few stay behind all winter.
The baker gets up at four, lights the oven, and kneads dough until sunrise.
Everyone laughed when the puppy stole a sausage from the picnic table.
Our guide pointed to a narrow path that disappeared between two enormous rocks.
After a long silence, the judge closed the file and looked up.
The children built a castle of sand, and the tide took it away.
You can borrow my bicycle, as long as you bring it back tomorrow.
Scientists discovered a species of frog that glows faintly in the dark.
The train slowed down, stopped for a moment, and then rolled backwards.
Grandmother keeps her letters in a wooden box beneath the window.
Nothing moved on the lake except a single boat with a red sail.
He opened the envelope slowly, read the first line, and smiled.
The market was crowded with people who were buying flowers, cheese, and honey.
We should paint the kitchen before the new cupboards are delivered next week.
Because the elevator was broken, they carried the piano up six flights of stairs.
The pilot announced that we would land twenty minutes ahead of schedule.
Somebody had left a bright yellow umbrella on the back seat of the bus.
Long before the town had a railway, merchants travelled along this river in flat wooden boats.
The gardener explained how to prune the roses, when to feed them, and why they need so much light.
When the lights went out, the whole street gathered outside, shared candles, and told stories until midnight.
Although the mountain looked close, it took us nearly two days of hard walking to reach its lowest slopes.
The company promised to replace every faulty lamp, free of charge, within thirty days of the original purchase.
In the middle of the square stands a fountain, and around it old men play chess from early morning until dusk.
If you listen carefully at night, you can hear the ice on the lake crack, groan, and sing as the temperature falls.
My grandfather, who had worked all his life as a carpenter, could tell what kind of wood a table was made of simply by
 running his thumb along the edge, and he was hardly ever wrong.
"""
SPEEDS = (0.75, 0.9, 1.0, 1.15, 1.4)
AIM_MEDIAN_MS, AIM_WORST_MS = 40.0, 150.0
_RATE = 24_000
_FRAME_S = 0.005
_QUIET_S = 0.06  #: silence before a rise
_QUIET_DB, _LOUD_DB = -45.0, -30.0  #: below the loudest frame


def sentences() -> list[str]:
    """Return the fifty sentences."""
    joined = re.sub(r"\n (?=\S)", " ", SENTENCES)
    return [part.strip() for part in re.split(r"[|\n]", joined) if part.strip()]


class Studio:
    """The engine's models and the recognisers in one process."""

    def __init__(self, threads: int) -> None:
        engine = create("embedded")
        encoder = engine.load_speaker_encoder(threads=threads)
        self._acoustic = engine.load_acoustic_model(threads=threads)
        self._vocoder = engine.load_vocoder(threads=threads)
        self._recognisers = whisper_tiny(threads), whisper_base(threads)
        clip = audio.decode(DEMO_CLIP.read_bytes())
        lower = round(clip.rate * 0.75)  # the same recording played slower: a lower and larger voice
        steered = encoder.encode([engine.prepare(clip.samples, rate) for rate in (clip.rate, lower)])
        stock = Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([5.2], np.float32)})
        self.voices = {"stock": stock, "steered": _whole(steered[0]), "steered, lower": _whole(steered[1])}

    def speak(self, text: str, voice: str, speed: float) -> tuple[np.ndarray, tuple[Word, ...]]:
        """Return a sentence's speech, mono float32 (n,), and its words."""
        mel = _whole(self._acoustic.generate([(Utterance(text, "en-US", speed=speed), self.voices[voice])])[0])
        assert isinstance(self._vocoder, TimedVocoder) and mel.timings is not None
        wave, cut_s = _whole(self._vocoder.vocode_timed([mel])[0])
        return wave, mel.timings.cut(cut_s, len(wave) / _RATE).heard("word", text, text)

    def heard(self, wave: np.ndarray) -> list[list[tuple[str, float, float]]]:
        """Return what each recogniser hears."""
        return [timed_words(model, wave, _RATE) for model in self._recognisers]


def matched(words: tuple[Word, ...], heard: list[tuple[str, float, float]]) -> dict[int, tuple[float, float]]:
    """Find the words that were heard as they were written: place of the word -> start and end, s."""
    ours, theirs = [_plain(word.text) for word in words], [_plain(text) for text, _, _ in heard]
    found = {}
    for block in SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks():
        for step in range(block.size):
            found[block.a + step] = heard[block.b + step][1:]
    return found


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def rises(wave: np.ndarray) -> list[float]:
    """List the seconds at which the sound rises out of at least 60 ms of silence."""
    frame = round(_FRAME_S * _RATE)
    power = np.square(wave[: len(wave) // frame * frame].reshape(-1, frame)).mean(1)
    level = 10 * np.log10(power / power.max() + 1e-12)
    found, quiet = [], len(level)  # silence is before the beginning
    for place, now in enumerate(level):
        if now < _QUIET_DB:
            quiet += 1
        elif now > _LOUD_DB:
            if quiet >= _QUIET_S / _FRAME_S:
                # back to where it left the silence
                start = place
                while start and level[start - 1] > _QUIET_DB:
                    start -= 1
                found.append(start * _FRAME_S)
            quiet = 0
    return found


def compared(words: tuple[Word, ...], heard: list[list[tuple[str, float, float]]], wave: np.ndarray) -> list[dict]:
    """Return a row for each word that both recognisers have: ms from each to our start and end."""
    both = [matched(words, one) for one in heard]
    onsets = rises(wave)
    rows = []
    for place, word in enumerate(words):
        if not all(place in one for one in both):
            continue
        row: dict = {"word": word.text, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)}
        for edge, ours in enumerate((word.start_s, word.end_s)):
            apart = [1000 * (ours - one[place][edge]) for one in both]
            own = abs(apart[0] - apart[1])
            inside = min(apart) <= 0 <= max(apart)
            name = ("start", "end")[edge]
            row[name] = [round(one) for one in apart]
            row[f"{name}_beyond"] = round(0.0 if inside else max(0.0, min(map(abs, apart)) - own))
        near = [1000 * (word.start_s - onset) for onset in onsets if abs(word.start_s - onset) < 0.2]
        if near:
            row["rise"] = round(near[int(np.argmin(np.abs(near)))])
        rows.append(row)
    return rows


def summary(rows: list[dict]) -> dict:
    """Return the figures of all rows."""

    def spread(values: list[float]) -> dict:
        size = np.abs(values)
        return {
            "count": len(values),
            "bias_ms": round(float(np.median(values)), 1),
            "median_ms": round(float(np.median(size)), 1),
            "p95_ms": round(float(np.percentile(size, 95)), 1),
            "worst_ms": round(float(size.max()), 1),
        }

    figures: dict = {"words": len(rows)}
    for number, model in enumerate(("tiny.en", "base")):
        for edge in ("start", "end"):
            figures[f"{edge} against {model}"] = spread([row[edge][number] for row in rows])
    for edge in ("start", "end"):
        figures[f"{edge}, the recognisers apart"] = spread([row[edge][0] - row[edge][1] for row in rows])
    figures["start against the rise of the sound"] = spread([row["rise"] for row in rows if "rise" in row])
    beyond = [row[f"{edge}_beyond"] for row in rows for edge in ("start", "end")]
    figures["beyond the recognisers' own"] = {
        "worst_ms": max(beyond),
        "over_150_ms": sum(one > AIM_WORST_MS for one in beyond),
        "boundaries": len(beyond),
    }
    return figures


def _whole(result):
    """Return a result, or raise the error that stands in its place."""
    if isinstance(result, SpeechError):
        raise result
    return result


def main() -> None:
    """Speak, listen, print the figures, and write bench/results/words.json."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.words", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    studio = Studio(options.threads)
    voices = list(studio.voices)
    rows: list[dict] = []
    for number, text in enumerate(sentences()[: options.sentences]):
        voice, speed = voices[number % len(voices)], SPEEDS[number % len(SPEEDS)]
        wave, words = studio.speak(text, voice, speed)
        found = compared(words, studio.heard(wave), wave)
        rows += [{"sentence": number, "voice": voice, "speed": speed} | row for row in found]
        print(f"{number + 1:3}  {voice:15} {speed:4}  {len(words):3} words, {len(found):3} compared", flush=True)
    figures = summary(rows)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if options.sentences >= 50:
        version = create("embedded").capabilities.version
        print(results.write("words", {"engine": "embedded", "version": version} | figures, {"rows": rows}))


if __name__ == "__main__":
    main()
