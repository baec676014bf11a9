"""Fitted voices in a batch: deltas change the timbre alone, and a batch gives what its members give alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.contract import Mel, Utterance, Voice
from engines.embedded import deltas, vocoder
from engines.embedded.stages import EmbeddedAcousticModel, EmbeddedVocoder

TEXTS = ("Yes.", "A short test.", "今天很好。")


def voice(seed: int, fitted: bool) -> Voice:
    random = np.random.default_rng(seed)
    arrays = {
        "style_offset": random.normal(0, 0.02, 256).astype(np.float32),
        "log_f0": np.array([math.log(110 + 40 * seed)], np.float32),
    }
    if fitted:
        arrays |= {
            deltas.OF_DECODER: random.normal(0, 0.02, 18_964).astype(np.float16),
            deltas.OF_VOCODER: random.normal(0, 0.02, 18_432).astype(np.float16),
        }
    return Voice(arrays)


#: two fitted voices of different speakers, and a steered one between them
VOICES = (voice(0, fitted=True), voice(1, fitted=False), voice(2, fitted=True))


@pytest.fixture(scope="module")
def acoustic() -> EmbeddedAcousticModel:
    return EmbeddedAcousticModel(threads=1)


@pytest.fixture(scope="module")
def jobs() -> list[tuple[Utterance, Voice]]:
    dialects = ("en-US", "en-US", "zh-CN")
    return [(Utterance(text, dialect), one) for text, dialect, one in zip(TEXTS, dialects, VOICES, strict=True)]


@pytest.fixture(scope="module")
def mels(acoustic, jobs) -> list[Mel]:
    return acoustic.generate(jobs)


def test_a_batch_of_fitted_and_steered_voices_gives_what_its_members_give_alone(acoustic, jobs, mels):
    for job, mel in zip(jobs, mels, strict=True):
        (alone,) = acoustic.generate([job])
        assert mel.arrays.keys() == alone.arrays.keys()
        for name, array in alone.arrays.items():
            np.testing.assert_allclose(mel.arrays[name], array, atol=1e-2 if name == "features" else 1e-3, rtol=1e-3)


def test_only_a_fitted_voice_s_mel_carries_the_vocoder_s_deltas(mels):
    assert [deltas.OF_VOCODER in mel.arrays for mel in mels] == [True, False, True]
    assert mels[0].arrays[deltas.OF_VOCODER].nbytes == 36_864


def beginning(mel: Mel, columns: int) -> Mel:
    """The first half second or so: the vocoder in its plain form takes its time."""
    arrays = dict(mel.arrays)
    arrays["features"], arrays["f0"] = arrays["features"][:, :columns], arrays["f0"][:columns]
    return replace(mel, arrays=arrays)


def test_the_vocoder_s_batch_gives_what_its_members_give_alone(mels):
    """A padded batch adds in another order, and phases make 0.1 to 0.4 % of that in single samples (46 to 66 dB)."""
    short = [beginning(mel, columns) for mel, columns in zip(mels, (60, 40, 50), strict=True)]
    network = vocoder.load_network()
    model = EmbeddedVocoder(threads=1, bf16=False)
    model._at_once = True
    for form, least_snr_db in ((vocoder.CpuVocoder(network, bf16=False), 200), (network, 40)):
        model._network = form
        together = model.vocode(short)
        for mel, waveform in zip(short, together, strict=True):
            (alone,) = model.vocode([mel])
            off = float(np.linalg.norm(waveform - alone)) + 1e-12
            assert 20 * np.log10(np.linalg.norm(alone) / off) > least_snr_db


def test_deltas_leave_durations_and_pitch_alone_and_change_the_sound(acoustic):
    fitted = VOICES[0]
    steered = Voice({name: array for name, array in fitted.arrays.items() if not name.endswith("_deltas")})
    before, after = acoustic.generate([(Utterance("A short test.", "en-US"), one) for one in (steered, fitted)])
    assert before.seconds == after.seconds
    np.testing.assert_allclose(before.arrays["f0"], after.arrays["f0"], atol=1e-3)
    assert np.abs(before.arrays["features"] - after.arrays["features"]).max() > 0.1


def test_both_forms_of_the_vocoder_read_deltas_alike():
    network = vocoder.load_network()
    generator = torch.Generator().manual_seed(0)
    features, pitch = torch.randn(2, 512, 20, generator=generator), torch.full((2, 20), 130.0)
    style = 0.1 * torch.randn(2, 128, generator=generator)
    rows = 0.05 * torch.randn(2, network.deltas, generator=generator)
    plain = network(features, pitch, style, deltas=rows)
    without = network(features, pitch, style)
    arranged = vocoder.CpuVocoder(network, bf16=False)(features, pitch, style, deltas=rows)
    torch.testing.assert_close(arranged, plain, atol=1e-3, rtol=1e-3)  # random features make a loud sound
    assert (plain - without).abs().max() > 1e-3


def test_a_batch_without_fitted_voices_has_no_deltas():
    assert deltas.stacked([None, None]) is None
    rows = deltas.stacked([None, np.ones(3, np.float16)])
    assert rows is not None and rows.tolist() == [[0, 0, 0], [1, 1, 1]]
