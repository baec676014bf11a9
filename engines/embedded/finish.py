"""The last step on a waveform trims silent edges, sets the loudness and prevents clipping."""

from __future__ import annotations

import numpy as np

from engines.embedded.loudness import levelled

_FRAME_SECONDS = 0.01
_MARGIN_SECONDS = 0.08  #: silence that stays before and after the speech, so that no soft onset is cut
_FADE_SECONDS = 0.01
_SILENCE_DB = -50.0  #: below the loudest 10 ms


def finish(waveform: np.ndarray, sample_rate: int, gain: float = 1.0) -> np.ndarray:
    """Trim the silent edges of mono float32 (n,) and level it: mono float32 (m,), m <= n.

    The loudness is that of `loudness.TARGET_LUFS` times `gain`, the true peak at most `loudness.CEILING_DBTP`.
    """
    speech = _trimmed(waveform, sample_rate).astype(np.float32)
    fade = min(round(_FADE_SECONDS * sample_rate), len(speech) // 2)
    if fade:
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        speech[:fade] *= ramp
        speech[-fade:] *= ramp[::-1]
    return levelled(speech, sample_rate, gain)


def _trimmed(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    frame = round(_FRAME_SECONDS * sample_rate)
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    power = np.square(frames).mean(axis=1)
    if not power.any():
        return waveform
    loud = np.flatnonzero(power > power.max() * 10 ** (_SILENCE_DB / 10))
    margin = round(_MARGIN_SECONDS / _FRAME_SECONDS)
    return waveform[max(0, loud[0] - margin) * frame : (loud[-1] + 1 + margin) * frame]
