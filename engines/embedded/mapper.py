"""Maps a speaker's d-vector and pitch to the style vector that steers Kokoro-82M.

A style is 256 numbers: the first 128 colour the sound (acoustic half), the last 128 shape rhythm and melody (prosody
half). A stock voice is a *pack* of 510 styles, one for each length of text in phoneme tokens. The mapper adds a
speaker's offset to the mean pack of the 54 stock voices. The offset lies in the principal components of those voices,
found by a linear map that was fitted on synthetic speech alone: see `engines.embedded.train`, which makes
`mapper.npz` and its checksum. So it steers within the space that the stock voices span; it is no true clone.

`mapper.npz` is derived from the voice packs of Kokoro-82M (hexgrad/Kokoro-82M, Apache-2.0, as packed in kokoro-js
1.2.1, Apache-2.0) and from d-vectors that the network of Resemblyzer (Apache-2.0) found in synthetic speech made with
them. No recording of a person went into it. It is under the Apache License 2.0 as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.contract import Arrays
from engines.embedded.packages import carried

STYLE_SIZE = 256
ACOUSTIC = slice(0, 128)  #: the half of a style that colours the sound
PROSODY = slice(128, 256)  #: the half that shapes rhythm and melody
DATA = Path(__file__).with_name("mapper.npz")
#: A coordinate's largest distance from the mean, in the stock voices' standard deviations. Beyond it speech breaks up.
ACOUSTIC_LIMIT, PROSODY_LIMIT = 3.2, 2.2
_REPAIR = (
    "Restore engines/embedded/mapper.npz and mapper.npz.sha256 from the repository (git checkout), or make "
    "both again with: python -m engines.embedded.train bank, then fit"
)


@dataclass(frozen=True)
class StyleMapper:
    """The fitted map. All arrays float32; `d` coordinates, of which the first `a` are acoustic."""

    input_mean: np.ndarray  #: (257,) d-vector and log F0
    weights: np.ndarray  #: (257, d)
    bias: np.ndarray  #: (d,) mean of the bank's coordinates
    acoustic_axes: np.ndarray  #: (a, 128) principal axes, each scaled by its standard deviation
    prosody_axes: np.ndarray  #: (d - a, 128)
    mean_pack: np.ndarray  #: (510, 256)
    zh_acoustic: np.ndarray  #: (510, 128) the acoustic half's way toward the native Mandarin packs
    zh_prosody: np.ndarray  #: (voices, 510, 128) prosody halves of the native Mandarin packs
    zh_log_f0: np.ndarray  #: (voices,) their median pitch, ln of Hz

    @classmethod
    def load(cls, path: Path = DATA) -> StyleMapper:
        """Read the data that the project carries. Raises WeightsError if it is missing or damaged."""
        return cls(**carried(path, "The voice mapper's data", _REPAIR))

    def offset(self, dvector: np.ndarray, log_f0: float) -> np.ndarray:
        """Compute the style offset (256,) float32 that turns the mean voice into this speaker's.

        Args:
            dvector: (256,) of unit length, from `DVectorNetwork`.
            log_f0: ln of the speaker's median pitch in Hz.
        """
        features = np.append(dvector, np.float32(log_f0)).astype(np.float32) - self.input_mean
        coordinates = features @ self.weights + self.bias
        acoustic, prosody = np.split(coordinates, [len(self.acoustic_axes)])
        return np.concatenate(
            [
                np.clip(acoustic, -ACOUSTIC_LIMIT, ACOUSTIC_LIMIT) @ self.acoustic_axes,
                np.clip(prosody, -PROSODY_LIMIT, PROSODY_LIMIT) @ self.prosody_axes,
            ]
        )

    def style(self, voice: Arrays, tokens: int, language: str) -> np.ndarray:
        """Return the style (256,) float32 for `tokens` phoneme tokens in `language` (ISO 639-1: `en`, `zh`, `ja`).

        `voice` holds `style_offset` (256,) and `log_f0` (1,). A text longer than the packs takes their last row.
        """
        if tokens < 1:
            raise ValueError("a text of no tokens has no style")
        row = min(tokens, len(self.mean_pack)) - 1
        style = self.mean_pack[row] + np.asarray(voice["style_offset"], dtype=np.float32)
        if language == "zh":
            # A voice steered by a speaker of another language is far from all that said Mandarin in training; on the
            # way toward those that did, its consonants and vowels come out clearer.
            style[ACOUSTIC] += self.zh_acoustic[row]
            # Tones are melody: the prosody of a native pack renders them far better than a mapped one.
            nearest = np.abs(self.zh_log_f0 - voice["log_f0"][0]).argmin()
            style[PROSODY] = self.zh_prosody[nearest, row]
        return style
