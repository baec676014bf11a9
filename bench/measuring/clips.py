"""Makes clips to upload for requests whose answer is not listened to."""

from __future__ import annotations

import io

import numpy as np
import soundfile


def clip(seconds: float = 10.0, rate: int = 16_000) -> bytes:
    """Make a WAV file of one tone, in 16-bit samples; the default of 10 s has 320 kB.

    Args:
        seconds: Duration of the clip.
        rate: Samples a second.
    """
    file = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(int(seconds * rate)) * 0.07)
    soundfile.write(file, samples.astype(np.float32), rate, format="WAV")
    return file.getvalue()
