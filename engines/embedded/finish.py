"""The last step on a waveform trims silent edges, sets the loudness and prevents clipping; whole, or part by part."""

from __future__ import annotations

import numpy as np

from engines.embedded.loudness import CEILING_DBTP, TARGET_LUFS, levelled

_FRAME_SECONDS = 0.01
_MARGIN_SECONDS = 0.08  #: silence that stays before and after the speech, so that no soft onset is cut
_FADE_SECONDS = 0.01
_SILENCE_DB = -50.0  #: below the loudest 10 ms
_LOUDEST = 4.0  #: power of the loudest 10 ms of speech over its mean, at least
_K_WEIGHTED_DB = 0.69  #: BS.1770's offset between mean power and loudness
_STRAIGHT = np.float32(0.5)  #: amplitude up to which a part is left as it is


def finish(waveform: np.ndarray, sample_rate: int, gain: float = 1.0) -> tuple[np.ndarray, int]:
    """Trim the silent edges of mono float32 (n,) and level it.

    The loudness is that of `loudness.TARGET_LUFS` times `gain`, the true peak at most `loudness.CEILING_DBTP`.

    Returns:
        Mono float32 (m,), m <= n, and the number of samples trimmed before it.
    """
    kept = speech_in(waveform, sample_rate)
    speech = waveform[kept].astype(np.float32)
    _fade(speech, sample_rate, first=True, last=True)
    return levelled(speech, sample_rate, gain), kept.start


def finish_part(
    waveform: np.ndarray, sample_rate: int, lufs: float, gain: float = 1.0, first: bool = False, last: bool = False
) -> np.ndarray:
    """Level a part of a waveform, mono float32 (n,), whose loudness is expected to be `lufs` as a whole.

    Peaks that would pass half of full scale are bent, so that none passes the ceiling: a part can't know how large
    those of the others will be. Speech at the target loudness hardly has any.

    Args:
        waveform: the part, without the silence before the speech.
        sample_rate: in Hz.
        lufs: the loudness of the whole before it is levelled.
        gain: as of `finish`.
        first: it begins the sound, so it fades in.
        last: it ends the sound, so the silence behind the speech is trimmed, and it fades out.
    """
    end = None
    if last:  # it may have nothing of the speech but its end, or nothing at all
        end = speech_in(waveform, sample_rate, loudest=_LOUDEST * 10 ** ((lufs + _K_WEIGHTED_DB) / 10)).stop
    part = waveform[:end].astype(np.float32)
    _fade(part, sample_rate, first, last)
    return _bent(part * np.float32(gain * 10 ** ((TARGET_LUFS - lufs) / 20)))


def _fade(speech: np.ndarray, sample_rate: int, first: bool, last: bool) -> None:
    fade = min(round(_FADE_SECONDS * sample_rate), len(speech) // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    if fade and first:
        speech[:fade] *= ramp
    if fade and last:
        speech[-fade:] *= ramp[::-1]


def _bent(waveform: np.ndarray) -> np.ndarray:
    """Leave what is within ±0.5 as it is, and draw what is beyond toward the ceiling."""
    room = np.float32(10 ** (CEILING_DBTP / 20) - _STRAIGHT)
    beyond = np.abs(waveform) - np.float32(_STRAIGHT)
    if beyond.max(initial=0.0) <= 0:
        return waveform
    return np.where(beyond > 0, np.sign(waveform) * (_STRAIGHT + room * np.tanh(beyond / room)), waveform)


def speech_in(waveform: np.ndarray, sample_rate: int, loudest: float = 0.0) -> slice:
    """Find the samples that stay when the silent edges are trimmed.

    Args:
        waveform: mono (n,).
        sample_rate: in Hz.
        loudest: the power of the loudest 10 ms, where it is not in this part of a waveform.
    """
    frame = round(_FRAME_SECONDS * sample_rate)
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    power = np.square(frames).mean(axis=1)
    if not power.any() and not loudest:
        return slice(0, len(waveform))
    loud = np.flatnonzero(power > max(power.max(initial=0.0), loudest) * 10 ** (_SILENCE_DB / 10))
    margin = round(_MARGIN_SECONDS / _FRAME_SECONDS)
    if not len(loud):
        return slice(0, min(margin * frame, len(waveform)))
    return slice(int(max(0, loud[0] - margin)) * frame, min(int(loud[-1] + 1 + margin) * frame, len(waveform)))
