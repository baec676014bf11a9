"""Plays speech while it is generated: 16-bit PCM from Gradio's events into the browser's Web Audio.

Gradio's own streaming output wants FFmpeg's program, which a machine need not have, and compresses what it plays.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from speech.words import Word

TimedSpan = tuple[int, int, float, float]

SCRIPT = (Path(__file__).parent / "player.js").read_text()
#: Chunks in every value: Gradio may show several updates as one, but hardly this many.
WINDOW = 16


def template(words: Mapping[str, str]) -> str:
    return (
        f'<div class="live" data-state="idle" data-seconds="0" data-chunks="0" data-missed="0"'
        f' data-playing="{escape(words["live_playing"])}" data-gap="{escape(words["live_gap"])}">'
        f'<label><input type="checkbox" checked> {escape(words["live"])}</label>'
        f'<span class="synthetic">{escape(words["take_synthetic"])}</span>'
        f'<span role="status"></span><button type="button" hidden>{escape(words["live_silence"])}</button>'
        # Only for the eye: the text is in its field, and a screen reader would speak over the speech.
        '<p class="caption" aria-hidden="true" hidden></p></div>'
    )


class Live:
    """Holds the value of the player during one run.

    Args:
        run: a name of the run.
        rate: of the samples, in Hz.
        text: what is said, as the API counts its characters.
    """

    def __init__(self, run: str, rate: int, text: str = "") -> None:
        self._run = run
        self._rate = rate
        self._text = text
        self._chunks: dict[str, str] = {}
        self._words: dict[str, list[TimedSpan]] = {}
        self._count = 0
        self._rest = b""

    def add(self, pcm: bytes, words: Sequence[Word] = ()) -> None:
        # A chunk may end within a sample.
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % 2
        self._rest = pcm[whole:]
        self._chunks[str(self._count)] = base64.b64encode(pcm[:whole]).decode()
        self._words[str(self._count)] = spans(words)
        for window in (self._chunks, self._words):
            window.pop(str(self._count - WINDOW), None)
        self._count += 1

    def value(self, over: bool = False) -> dict:
        return {
            "run": self._run,
            "rate": self._rate,
            "text": self._text,
            "chunks": dict(self._chunks),
            "words": dict(self._words),
            "over": over,
        }


def spans(words: Sequence[Word]) -> list[TimedSpan]:
    """Return what the scripts need to know of words: start and end in code points, start and end in seconds."""
    return [(word.start, word.end, round(word.start_s, 3), round(word.end_s, 3)) for word in words]
