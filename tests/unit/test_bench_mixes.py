"""The bench of mixes: what it makes of places, pitches and opinions."""

from __future__ import annotations

import numpy as np
import pytest

from bench import mixes
from engines.contract import Voice


class Studio:
    """Speaks as a unit vector between the two voices, at their pitch; the judges of the test read it back."""

    rate = 16_000

    def speak(self, voice: Voice, text: str) -> np.ndarray:
        return voice.arrays["point"]


def mix(voices, weights) -> Voice:
    return Voice({"point": np.average([voice.arrays["point"] for voice in voices], axis=0, weights=weights)})


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setattr(mixes, "campplus", lambda wave, rate: wave)
    monkeypatch.setattr(mixes, "_pitch", lambda waves, rate: float(waves[0][0]))
    monkeypatch.setattr(mixes, "dnsmos", lambda wave, rate: type("Opinion", (), {"overall": 3 + wave[0]}))
    monkeypatch.setattr(mixes, "transcribe", lambda wave, rate: mixes.SENTENCES[0])
    voices = [Voice({"point": np.array([1.0, 0.0])}), Voice({"point": np.array([0.0, 1.0])})]
    return lambda mixer=mix: mixes.summary([mixes.measure(Studio(), voices, mixer)])


def test_mixes_that_lie_between_are_said_to(report):
    found = report()
    assert found["in order"] == found["between"] == 1
    assert found["mean place at 1/4, 1/2, 3/4"] == pytest.approx([0.25, 0.5, 0.75], abs=0.12)
    assert found["semitones off, mean"] == 0 and found["similarity of the voices, mean"] == pytest.approx(0, abs=1e-3)
    assert found["DNSMOS of voices, of mixes"] == [3.5, 3.5]


def test_mixes_that_lie_elsewhere_are_not(report):
    found = report(lambda voices, weights: voices[0] if weights[0] < weights[1] else voices[1])
    assert found["in order"] < 0.5 and found["between"] == 0
    assert found["semitones off, mean"] > 3
