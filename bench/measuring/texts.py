"""Makes random texts and clips to send, because real requests hardly ever repeat a length."""

from __future__ import annotations

import math
import random
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from speech.pcm import to_wav

DEMO_CLIP = Path(__file__).parents[2] / "cluster" / "assets" / "reference.flac"
#: what a text is made of, by dialect: pieces, what joins them, what ends the text, and the most characters
_PIECES = {
    "en-US": (
        "although the evening was cold they walked slowly along the harbour and talked about old friends who had "
        "sailed away from this quiet town long before any road or railway came to it".split(),
        " ",
        ".",
        200,
    ),
    "zh-CN": (
        "今天天气很好 我们去公园散步 他还没有起床 请把窗户打开 这本书很有意思 外面下着大雨 大家都很高兴 明天再说吧 "
        "他们走得很慢 桌上放着一杯茶".split(),
        "，",
        "。",
        80,
    ),
    "ja-JP": (
        "今日は天気がいいので 公園を歩きました 駅の近くで待っています 明日は雨が降るでしょう 静かな町に住んでいます "
        "新しい本を読みました 友達と話していました 窓を開けてください".split(),
        "、",
        "。",
        80,
    ),
}
_SHORTEST_S, _LONGEST_S = 3.2, 14.5


def text(chance: random.Random, dialect: str = "en-US", longest: int | None = None, shortest: int = 10) -> str:
    """Return a text of random pieces, `shortest` to `longest` characters long, by default up to the dialect's most.

    Lengths are spread evenly on a logarithmic scale: as many texts from 10 to 20 characters as from 100 to 200.
    """
    pieces, joint, end, most = _PIECES[dialect]
    wanted = round(math.exp(chance.uniform(math.log(shortest), math.log(longest or most)))) - len(end)
    made = chance.choice(pieces)
    while len(made) < wanted:
        made += joint + chance.choice(pieces)
    return made[:wanted].rstrip(joint) + end


def sentence(chance: random.Random) -> str:
    """Return an English sentence of 14 to 18 random words, about five seconds of speech."""
    words, joint, end, _ = _PIECES["en-US"]
    return joint.join(chance.choice(words) for _ in range(chance.randint(14, 18))).capitalize() + end


def clip(chance: random.Random, shortest_s: float = _SHORTEST_S, longest_s: float = _LONGEST_S) -> bytes:
    """Return a WAV file of 3 to 15 s, cut from the demo's clip said over and over, a little higher or lower."""
    samples, rate = _demo()
    wanted = int(chance.uniform(shortest_s, longest_s) * rate)
    start = chance.randrange(len(samples))
    said = np.tile(samples, 2 + wanted * 2 // len(samples))[start : start + int(wanted * 1.2)]
    moved = soxr.resample(said, rate * chance.uniform(0.9, 1.1), rate)
    return to_wav(moved[:wanted], rate)


@cache
def _demo() -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(DEMO_CLIP, dtype="float32")
    assert samples.ndim == 1, "the demo's clip has one channel"
    return samples, rate
