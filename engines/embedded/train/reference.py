"""Makes the demo's reference clip, which has the voice of no real person.

The voice is a blend of three of Kokoro's stock voices (Apache-2.0). It belongs to no person and is none of the 54, so
the clip may be shared freely.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from engines.embedded.train.bank import Synthesiser
from engines.embedded.train.sentences import token_ids
from engines.embedded.vocoder import SAMPLE_RATE

PATH = Path(__file__).parents[3] / "cluster" / "assets" / "reference.flac"
BLEND = {"bf_emma": 0.40, "af_kore": 0.35, "zf_xiaobei": 0.25}
#: "I belong to nobody in particular. My voice was blended from several others, so everyone may use it freely."
PHONEMES = (
    "ˌI bəlˈɔŋ tə nˈObˌɑdi ɪn pəɹtˈɪkjələɹ. mˌI vˈYs wʌz blˈɛndᵻd fɹʌm sˈɛvəɹəl ˈʌðəɹz, "
    "sˌO ˈɛvɹiwən mˈA jˈuz ɪt fɹˈili."
)
_EDGE_S = 0.15  # silence kept before and after the speech
_PEAK = 0.7


def make(packs: dict[str, np.ndarray], path: Path = PATH) -> float:
    """Write the clip as 24 kHz FLAC; returns its length in seconds."""
    tokens = token_ids((PHONEMES,))[0]
    style = sum(weight * packs[name][len(tokens) - 1] for name, weight in BLEND.items())
    wave = Synthesiser(bf16=False).speak(tokens, style, seed=1)
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    edge = int(_EDGE_S * SAMPLE_RATE)
    wave = wave[max(loud[0] - edge, 0) : loud[-1] + edge]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave / np.abs(wave).max() * _PEAK, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return len(wave) / SAMPLE_RATE
