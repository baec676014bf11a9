"""Loudness and true peak of speech after ITU-R BS.1770-4, measured by FFmpeg's `ebur128` filter."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

#: EBU R 128. Voices came out at -18.5 to -28 dB; from here a voice can be told to speak 6 dB louder without a limiter.
TARGET_LUFS = -23.0
CEILING_DBTP = -1.0  #: EBU R 128's largest true peak
SILENT_LUFS = -60.0  #: nothing up to here has speech in it
_BLOCK_SECONDS = 0.4  #: BS.1770's; nothing shorter has a loudness


@dataclass(frozen=True)
class Loudness:
    """The loudness of a waveform."""

    lufs: float  #: integrated, gated; -70 for silence
    peak: float  #: true peak, 1 is full scale


def measure(waveform: np.ndarray, sample_rate: int) -> Loudness:
    """Measure mono float32 (n,) within ±1. A clip shorter than a block of 0.4 s counts as repeated to that length."""
    import av
    import av.filter

    if not waveform.any():
        return Loudness(-70.0, 0.0)
    needed = round(_BLOCK_SECONDS * sample_rate) + 1
    samples = waveform if len(waveform) >= needed else np.resize(waveform, needed)
    graph = av.filter.Graph()
    source = graph.add_abuffer(format="flt", sample_rate=sample_rate, layout="mono", time_base=Fraction(1, sample_rate))
    meter = graph.add("ebur128", "metadata=1:peak=true:framelog=quiet")
    sink = graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32)[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts = sample_rate, 0
    graph.push(frame)
    graph.push(None)
    found: dict[str, str] = {}
    while True:
        try:
            found = dict(graph.pull().metadata) or found
        except (av.error.EOFError, av.error.BlockingIOError):
            break
    return Loudness(float(found["lavfi.r128.I"]), float(found["lavfi.r128.true_peak"]))


def levelled(waveform: np.ndarray, sample_rate: int, gain: float = 1.0) -> np.ndarray:
    """Scale mono float32 (n,) to the target loudness times `gain`, or to the largest true peak that is allowed."""
    found = measure(waveform, sample_rate)
    if found.lufs <= SILENT_LUFS:
        return waveform
    factor = gain * 10 ** ((TARGET_LUFS - found.lufs) / 20)
    return waveform * np.float32(min(factor, 10 ** (CEILING_DBTP / 20) / found.peak))
