"""The last step on a waveform trims silent edges, sets the loudness and prevents clipping."""

from __future__ import annotations

import numpy as np

from engines.embedded.loudness import levelled

_FRAME_SECONDS = 0.01
_MARGIN_SECONDS = 0.08  #: silence that stays before and after the speech, so that no soft onset is cut
_FADE_SECONDS = 0.01
_SILENCE_DB = -50.0  #: below the loudest 10 ms


def finish(waveform: np.ndarray, sample_rate: int, gain: float = 1.0) -> tuple[np.ndarray, int]:
    """Trim the silent edges of mono float32 (n,) and level it.

    The loudness is that of `loudness.TARGET_LUFS` times `gain`, the true peak at most `loudness.CEILING_DBTP`.

    Returns:
        Mono float32 (m,), m <= n, and the number of samples trimmed before it.
    """
    kept = _speech_in(waveform, sample_rate)
    speech = waveform[kept].astype(np.float32)
    fade = min(round(_FADE_SECONDS * sample_rate), len(speech) // 2)
    if fade:
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        speech[:fade] *= ramp
        speech[-fade:] *= ramp[::-1]
    return levelled(speech, sample_rate, gain), kept.start


def _speech_in(waveform: np.ndarray, sample_rate: int) -> slice:
    """Find the samples that stay when the silent edges are trimmed."""
    frame = round(_FRAME_SECONDS * sample_rate)
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    power = np.square(frames).mean(axis=1)
    if not power.any():
        return slice(0, len(waveform))
    loud = np.flatnonzero(power > power.max() * 10 ** (_SILENCE_DB / 10))
    margin = round(_MARGIN_SECONDS / _FRAME_SECONDS)
    return slice(int(max(0, loud[0] - margin)) * frame, min(int(loud[-1] + 1 + margin) * frame, len(waveform)))
