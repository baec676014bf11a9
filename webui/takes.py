"""Keeps the speech that was generated, each take for an hour, and hands it out in the format that a person wants.

The list of takes itself is the browser's (`takes.js`): this process knows files by random names, and nothing else.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import soundfile

from speech.encoding import encode, format_named
from speech.wav_header import mark_of
from webui import folder
from webui.live import spans
from webui.run import Finished, Wish, written

#: A setting's name, its value, and the value in words that need no name.
Setting = tuple[str, str, str]
#: To choose from; the first one is what the page plays.
FORMATS = ("wav", "mp3", "flac", "opus")
KEPT_S = 3600.0
SCRIPT = (Path(__file__).parent / "takes.js").read_text()
_TOKEN = re.compile(r"[0-9a-f]{32}")
_SWEEP_EVERY_S = 60.0
_NAME_CHARACTERS = 40


class TakeFiles:
    """Holds the files of all takes. All methods are safe to call from several threads.

    Args:
        place: Their folder; None for one in this process's own.
        now: The clock, in seconds since the epoch.
    """

    def __init__(self, place: Path | None = None, now: Callable[[], float] = time.time) -> None:
        self._place = place or folder.own() / "takes"
        self._place.mkdir(mode=0o700, exist_ok=True)
        self._now = now
        self._lock = threading.Lock()

    def sweep_by_itself(self) -> None:
        """Remove old takes from now on, for as long as the process lives."""
        threading.Thread(target=self._sweep_forever, name="old-takes", daemon=True).start()

    def add(self, wav: bytes) -> str:
        """Keep a take, and return its token: 128 random bits, the only way to it."""
        token = secrets.token_hex(16)
        self._write(self._place / f"{token}.wav", wav)
        return token

    def file(self, token: str, extension: str) -> tuple[Path, str] | None:
        """Return a take's file in a format of `FORMATS`, and its media type; None where there is none any more."""
        if not _TOKEN.fullmatch(token) or extension not in FORMATS:
            return None
        wav, wanted = self._place / f"{token}.wav", self._place / f"{token}.{extension}"
        media_type = format_named(extension).media_type
        with self._lock:
            try:
                if not wanted.exists():
                    samples, rate = soundfile.read(wav, dtype="float32")
                    self._write(wanted, encode(samples, rate, extension, mark_of(wav.read_bytes())))
            except (FileNotFoundError, soundfile.LibsndfileError):
                return None
        return wanted, media_type

    def sweep(self) -> None:
        """Remove the takes that are older than an hour, in all their formats."""
        with self._lock:
            for file in self._place.glob("*.wav"):
                if self._now() - file.stat().st_mtime > KEPT_S:
                    for of_the_take in self._place.glob(f"{file.stem}.*"):
                        of_the_take.unlink(missing_ok=True)

    def _sweep_forever(self) -> None:
        while True:
            time.sleep(_SWEEP_EVERY_S)
            with suppress(OSError):  # a file that can't be looked at now must not end the sweeping
                self.sweep()

    def _write(self, file: Path, data: bytes) -> None:
        """Write a file whole or not at all: on a full disk the next request would get the beginning of it for all."""
        partial = self._place / f".{file.name}.part"
        try:
            partial.write_bytes(data)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


def file_name(text: str, dialect: str | None, seed: int | None) -> str:
    """Return a name that people can read, without its extension: the first words, the dialect and the seed."""
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", text)).strip("-")[:_NAME_CHARACTERS].strip("-")
    parts = [words or "speech", dialect or "", "" if seed is None else f"seed-{seed}"]
    return "_".join(part for part in parts if part)


def record(wish: Wish, finished: Finished, token: str, settings: list[Setting]) -> dict[str, Any]:
    """Return a take as the browser keeps it: what is shown, and the form that speaks it again."""
    form = asdict(wish)
    del form["key"]
    text = written(wish.text)
    return {
        "token": token,
        "name": file_name(text, wish.dialect, None if wish.seed is None else int(wish.seed)),
        "text": text,
        "settings": settings,
        "form": form,
        "trace_url": finished.trace_url,
        "words": spans(finished.words),
    }


def settings(wish: Wish, finished: Finished, dialect: str, voice: str, words: Mapping[str, str]) -> list[Setting]:
    """Return what a take was made with, in words.

    Args:
        wish: The controls.
        finished: The speech.
        dialect: The dialect's name.
        voice: The stored voice's name, or words for a clip.
        words: The page's texts.
    """
    seconds = f"{finished.seconds:.1f} {words['s']}"
    found = [(words["dialect_short"], dialect, dialect), (words["voice_short"], voice, voice)]
    if wish.mode == "instruct" and wish.style:
        found.append((words["style_short"], wish.style, wish.style))
    if wish.speed is not None:
        found.append((words["speed"], f"{wish.speed:g}", words["speed_of"].format(speed=f"{wish.speed:g}")))
    if wish.seed is not None:
        found.append((words["seed"], f"{wish.seed:.0f}", words["seed_of"].format(seed=f"{wish.seed:.0f}")))
    found.append((words["seconds"], seconds, seconds))
    if not finished.whole:
        found.append((words["state"], words["beginning"], words["beginning"]))
    return found


def template(words: Mapping[str, str]) -> str:
    """Return the template for gr.HTML; takes.js fills in the list."""
    said = {name: words[name] for name in words if name.startswith("take_")}
    data = "".join(f' data-{name.replace("_", "-")}="{escape(text)}"' for name, text in said.items())
    name = escape(words["takes"])
    return f'<section class="takes" aria-label="{name}" data-formats="{" ".join(FORMATS)}"{data}></section>'
