"""Measure the embedded engine's word times against what Whisper hears, and against the sound itself.

    python -m bench.words [--sentences 50] [--threads 2]

Fifty English sentences of 3 to 37 words are spoken by three voices at five speeds, each sentence in one of the
combinations. Two recognisers (Whisper tiny.en and base, each from a package) tell when they hear each word. Words that
both have recognised are compared.

A recogniser gives the silence between two words to one of them: its times are cut to where there is sound. It errs,
too: two of them differ by a constant of more than 100 ms, and by more at single words. So each one's
median distance from the engine is printed (`bias`) and taken off. A recogniser's own error at a boundary is taken to be
what the two still differ by, and an engine's time is off beyond that by its distance to the nearer one, less their
difference.

Two kinds of boundaries show in the sound where they are, and the recognisers are measured against it, too. A word
before a pause ends where the power falls below -40 dB. Between a hiss and a vowel (a nasal, a liquid) of two words that
are spoken without a pause, the power above 4.5 kHz changes places with that from 0.2 to 1.5 kHz. The engine's ends
before pauses are set by the same power (`speech/word_edges.py`): there only the recognisers' figures say something.

A constant error of the engine's own would go with the bias. The sound itself shows it, without a recogniser: the lag at
which the fricatives' times agree best with the power above 4.5 kHz, and the vowels' with that from 0.2 to 1.5 kHz.
"""

from __future__ import annotations

import argparse
import re
from difflib import SequenceMatcher

import numpy as np

from bench import results
from bench.measuring.asr import timed_words, whisper_tiny
from bench.measuring.outcome import made
from bench.measuring.texts import DEMO_CLIP
from bench.recognised import whisper_base
from engines.contract import TimedVocoder, Utterance, Voice, create
from speech import audio
from speech.word_edges import heard_in
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
_HOP = 120  #: samples of a step of 5 ms
_SOUNDS = {
    "fricatives": (frozenset("sʃzʒʧʤ"), (4500, 12_000)),
    "vowels": (frozenset("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻᵊ"), (200, 1500)),
}  #: first symbols, and the band of their power, Hz
_VOICED = _SOUNDS["vowels"][0] | frozenset("mnŋlɹwj")
_CLEAR_DB = 15.0  #: by which hiss and voice must differ in the ratio of both bands, to be told apart for certain
_QUIET_DB = -40.0  #: below the loudest step, silence
_PAUSE_S = 0.08  #: silence that stays at the end of the speech
_STEPS = 40  #: of 5 ms, that a lag is looked for to either side


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
        self.voices = {"stock": stock, "steered": made(steered[0]), "steered, lower": made(steered[1])}

    def speak(self, text: str, voice: str, speed: float) -> tuple[np.ndarray, tuple[Word, ...]]:
        """Return a sentence's speech, mono float32 (n,), and its words."""
        mel = made(self._acoustic.generate([(Utterance(text, "en-US", speed=speed), self.voices[voice])])[0])
        assert isinstance(self._vocoder, TimedVocoder) and mel.timings is not None
        wave, cut_s = made(self._vocoder.vocode_timed([mel])[0])
        return wave, heard_in(mel.timings.cut(cut_s, len(wave) / _RATE), wave, _RATE).heard("phoneme", text, text)

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


def agreement(words: tuple[Word, ...], wave: np.ndarray, sounds: str) -> np.ndarray:
    """Correlate the times of some phonemes with the power in their band, for lags of -200 to 200 ms, (81,).

    A positive lag is that of times that are later than the sound.
    """
    symbols, band = _SOUNDS[sounds]
    spectrum, hertz = np.fft.rfft(wave), np.fft.rfftfreq(len(wave), 1 / _RATE)
    spectrum[(hertz < band[0]) | (hertz > band[1])] = 0
    filtered = np.fft.irfft(spectrum, len(wave))
    power = np.log10(np.square(filtered[: len(wave) // _HOP * _HOP].reshape(-1, _HOP)).mean(1) + 1e-7)
    said = np.zeros(len(power))
    for word in words:
        for phoneme in word.phonemes:
            if phoneme.symbol.lstrip("ˈˌ")[:1] in symbols:
                said[round(phoneme.start_s * _RATE / _HOP) : round(phoneme.end_s * _RATE / _HOP)] = 1
    power, said = ((one - one.mean()) / (one.std() + 1e-9) for one in (power, said))
    padded = np.pad(said, _STEPS)
    return np.array([np.mean(power * padded[at : at + len(power)]) for at in range(2 * _STEPS + 1)])


def hisses(words: tuple[Word, ...], text: str, wave: np.ndarray) -> list[tuple[int, float]]:
    """Find where the sound changes between a hiss and a voiced sound of two words with no more than a space between.

    Returns:
        The place of the word before, and the second of the change.
    """
    size, found = 3 * _HOP, []
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, (_HOP, size)), size)[::_HOP] * np.hanning(size)
    power, hertz = np.square(np.abs(np.fft.rfft(frames, axis=1))), np.fft.rfftfreq(size, 1 / _RATE)
    high, low = (
        10 * np.log10(power[:, (hertz >= first) & (hertz <= last)].sum(1) + 1e-9)
        for _, (first, last) in _SOUNDS.values()
    )
    quiet = _power(wave) < _power(wave).max() * 10 ** (_QUIET_DB / 10)
    for place, (before, after) in enumerate(zip(words, words[1:], strict=False)):
        last, first = before.phonemes[-1], after.phonemes[0]
        hissed = [one.symbol.lstrip("ˈˌ")[:1] in _SOUNDS["fricatives"][0] for one in (last, first)]
        voiced = [one.symbol.lstrip("ˈˌ")[:1] in _VOICED for one in (last, first)]
        if text[before.end : after.start] != " " or not (hissed[0] and voiced[1] or voiced[0] and hissed[1]):
            continue
        begin, behind = max(0, round(last.start_s * _RATE / _HOP) - 6), round(first.end_s * _RATE / _HOP) + 6
        if quiet[begin:behind].sum() * _HOP / _RATE > _PAUSE_S / 2:
            continue  # spoken with a pause all the same
        ratio = (high - low)[begin:behind] * (1 if hissed[1] else -1)
        cuts = np.arange(3, len(ratio) - 3)
        sums = np.cumsum(ratio)
        rise = (sums[-1] - sums[cuts - 1]) / (len(ratio) - cuts) - sums[cuts - 1] / cuts
        if len(cuts):
            best = int((rise * np.sqrt(cuts * (len(ratio) - cuts))).argmax())
            if rise[best] > _CLEAR_DB:
                found.append((place, float((begin + cuts[best]) * _HOP / _RATE)))
    return found


def against_sound(
    words: tuple[Word, ...], text: str, heard: list[list[tuple[str, float, float]]], wave: np.ndarray
) -> list[dict]:
    """Return a row for each boundary that the sound shows: ms from there to the engine's and the recognisers' times.

    A row of kind `hiss` has `start` and `end`, one of kind `pause` only `end`: the engine's, and each recogniser's or
    None.
    """
    both = [{place: sounding(wave, *times) for place, times in matched(words, one).items()} for one in heard]

    def from_(second: float, edge: int, place: int) -> list[int | None]:
        ours = words[place].end_s if edge else words[place].start_s
        return [
            None if time is None else round(1000 * (time - second))
            for time in (ours, *(one[place][edge] if place in one else None for one in both))
        ]

    rows = [
        {
            "kind": "hiss",
            "word": words[place].text,
            "end": from_(second, 1, place),
            "start": from_(second, 0, place + 1),
        }
        for place, second in hisses(words, text, wave)
    ]
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else None
        if following and text[word.end : following.start] == " ":
            continue
        until_s = following.start_s if following else len(wave) / _RATE
        _, end_s = sounding(wave, word.start_s, (word.end_s + until_s) / 2)
        if until_s - end_s >= _PAUSE_S:
            rows.append({"kind": "pause", "word": word.text, "end": from_(end_s, 1, place)})
    return rows


def _power(wave: np.ndarray) -> np.ndarray:
    return np.square(wave[: len(wave) // _HOP * _HOP].reshape(-1, _HOP)).mean(1)


def sounding(wave: np.ndarray, start_s: float, end_s: float) -> tuple[float, float]:
    """Return a recogniser's times of a word without the silence at both ends, which it gives to the word beside it."""
    power = _power(wave)
    step = _HOP / _RATE
    first = round(start_s / step)
    loud = first + np.flatnonzero(power[first : round(end_s / step)] > power.max() * 10 ** (_QUIET_DB / 10))
    return (float(loud[0] * step), float((loud[-1] + 1) * step)) if len(loud) else (start_s, end_s)


def compared(
    words: tuple[Word, ...], text: str, heard: list[list[tuple[str, float, float]]], wave: np.ndarray
) -> list[dict]:
    """Return a row for each word that both recognisers have: ms from each of them to our start and end."""
    spaced = [text[one.end : two.start] == " " for one, two in zip(words, words[1:], strict=False)]
    both = [{place: sounding(wave, *times) for place, times in matched(words, one).items()} for one in heard]
    return [
        {
            "word": word.text,
            "start_s": round(word.start_s, 3),
            "end_s": round(word.end_s, 3),
            "start": [round(1000 * (word.start_s - one[place][0])) for one in both],
            "end": [round(1000 * (word.end_s - one[place][1])) for one in both],
            "pause_start": not (place and spaced[place - 1]),  # at the edge of the speech, or at punctuation
            "pause_end": not (place < len(spaced) and spaced[place]),
        }
        for place, word in enumerate(words)
        if all(place in one for one in both)
    ]


def sound_figures(rows: list[dict]) -> dict:
    """Return the figures of the rows of `against_sound`, for the engine and each recogniser.

    `median_ms` is signed: a negative one is too early. `spread_ms` is the median distance from it.
    """
    figures: dict = {}
    for kind, edge, name in (
        ("hiss", "end", "end at a hiss"),
        ("hiss", "start", "start at a hiss"),
        ("pause", "end", "end before a pause"),
    ):
        for number, source in enumerate(("the engine", "tiny.en", "base")):
            times = [row[edge][number] for row in rows if row["kind"] == kind]
            apart = np.array([time for time in times if time is not None], float)
            if len(apart):
                median = float(np.median(apart))
                figures[f"{name}, {source} against the sound"] = {
                    "count": len(apart),
                    "median_ms": round(median, 1),
                    "spread_ms": round(float(np.median(np.abs(apart - median))), 1),
                    "p95_ms": round(float(np.percentile(np.abs(apart), 95)), 1),
                }
    return figures


def summary(rows: list[dict], lags: dict[str, np.ndarray]) -> dict:
    """Return the figures of all rows, and of the summed agreements."""
    figures: dict = {"words": len(rows)}
    for sounds, agreements in lags.items():
        figures[f"lag of {sounds}, ms"] = 5 * (int(agreements.argmax()) - _STEPS)
    beyond: list[float] = []
    pausing: list[bool] = []
    for edge in ("start", "end"):
        apart = np.array([row[edge] for row in rows], float)
        bias = np.median(apart, axis=0)
        left = apart - bias
        for number, model in enumerate(("tiny.en", "base")):
            figures[f"{edge} against {model}"] = {"bias_ms": float(bias[number])} | _spread(left[:, number])
        figures[f"{edge}, the recognisers apart"] = _spread(left[:, 0] - left[:, 1])
        figures[f"{edge} against their mean"] = _spread(left.mean(1))
        agreed = left[np.abs(left[:, 0] - left[:, 1]) <= AIM_MEDIAN_MS].mean(1)
        figures[f"{edge} where they agree within 40 ms"] = {"count": len(agreed)} | _spread(agreed)
        inside = (left.min(1) <= 0) & (left.max(1) >= 0)
        own = np.abs(left[:, 0] - left[:, 1])
        pausing += [row[f"pause_{edge}"] for row in rows]
        beyond += np.where(inside, 0.0, np.maximum(0.0, np.abs(left).min(1) - own)).tolist()
    figures["beyond the recognisers' own"] = {
        "worst_ms": max(beyond),
        "over_150_ms": sum(one > AIM_WORST_MS for one in beyond),
        "over_150_ms_at_pauses": sum(
            one > AIM_WORST_MS and paused for one, paused in zip(beyond, pausing, strict=True)
        ),
        "boundaries": len(beyond),
        "boundaries_at_pauses": sum(pausing),
    }
    return figures


def _spread(values: np.ndarray) -> dict[str, float]:
    size = np.abs(values)
    return {
        "median_ms": round(float(np.median(size)), 1),
        "p95_ms": round(float(np.percentile(size, 95)), 1),
        "worst_ms": round(float(size.max()), 1),
    }


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
    shown: list[dict] = []
    lags = {sounds: np.zeros(2 * _STEPS + 1) for sounds in _SOUNDS}
    for number, text in enumerate(sentences()[: options.sentences]):
        voice, speed = voices[number % len(voices)], SPEEDS[number % len(SPEEDS)]
        wave, words = studio.speak(text, voice, speed)
        heard = studio.heard(wave)
        found = compared(words, text, heard, wave)
        shown += [{"sentence": number} | row for row in against_sound(words, text, heard, wave)]
        for sounds in lags:
            lags[sounds] += agreement(words, wave, sounds)
        rows += [{"sentence": number, "voice": voice, "speed": speed} | row for row in found]
        print(f"{number + 1:3}  {voice:15} {speed:4}  {len(words):3} words, {len(found):3} compared", flush=True)
    figures = summary(rows, lags) | sound_figures(shown)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if options.sentences >= 50:
        version = create("embedded").capabilities.version
        print(
            results.write("words", {"engine": "embedded", "version": version} | figures, {"rows": rows, "sound": shown})
        )


if __name__ == "__main__":
    main()
