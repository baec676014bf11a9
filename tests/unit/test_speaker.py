"""The speaker encoder, the pitch estimator and the mapper: from a reference clip to a style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from engines.contract import Reference, Voice, WeightsError
from engines.embedded.mapper import DATA, PROSODY, StyleMapper
from engines.embedded.pitch import median_log_f0
from engines.embedded.speaker import RATE, SpeakerEncoder, without_pauses
from speech.errors import InvalidInput

DEMO_CLIP = Path(__file__).parents[2] / "cluster" / "assets" / "reference.flac"


@pytest.fixture(scope="module")
def encoder() -> SpeakerEncoder:
    return SpeakerEncoder(threads=1)


@pytest.fixture(scope="module")
def mapper() -> StyleMapper:
    return StyleMapper.load()


@pytest.fixture(scope="module")
def demo() -> np.ndarray:
    samples, rate = soundfile.read(DEMO_CLIP, dtype="float32")
    return soxr.resample(samples, rate, RATE)


def reference(samples: np.ndarray, for_fit: bool = False) -> Reference:
    return Reference({RATE: samples.astype(np.float32)}, for_fit=for_fit)


def tone(hz: float, seconds: float = 1.0, noise: float = 0.01, first_harmonic: int = 1) -> np.ndarray:
    """Ten harmonics that fall off like those of a voice, in a little noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    waves = [np.sin(2 * np.pi * hz * k * time) / k for k in range(first_harmonic, first_harmonic + 10)]
    return 0.2 * np.sum(waves, axis=0) + noise * np.random.default_rng(0).normal(size=len(time))


@pytest.mark.parametrize("hz", [70, 95, 120, 180, 240, 333, 450])
def test_the_pitch_of_a_tone_is_found(hz):
    assert np.exp(median_log_f0(tone(hz))) == pytest.approx(hz, rel=0.01)


def test_the_pitch_is_found_without_its_fundamental():
    """A telephone cuts the lowest harmonic of a low voice; listeners hear the same pitch."""
    assert np.exp(median_log_f0(tone(110, first_harmonic=2))) == pytest.approx(110, rel=0.01)


def test_the_pitch_is_the_median_of_what_is_voiced():
    clip = np.concatenate([tone(100, 2.0), np.zeros(RATE), tone(200, 0.5)])
    assert np.exp(median_log_f0(clip)) == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize(
    "clip",
    [np.zeros(3 * RATE), np.random.default_rng(0).normal(0, 0.1, 3 * RATE), np.zeros(10)],
    ids=["silence", "noise", "next to nothing"],
)
def test_what_has_no_pitch_gets_none(clip):
    assert median_log_f0(clip) is None


def test_a_batch_gives_what_its_members_give_alone(encoder, demo):
    clips = [demo, demo[: 3 * RATE], demo[2 * RATE :] * 0.1, soxr.resample(demo, RATE, 13_000)]
    together = encoder.encode([reference(clip) for clip in clips])
    for clip, voice in zip(clips, together, strict=True):
        alone = encoder.encode([reference(clip)])[0]
        for name in ("style_offset", "log_f0", "dvector"):
            np.testing.assert_allclose(voice.arrays[name], alone.arrays[name], atol=1e-5)


def test_a_voice_has_the_arrays_the_acoustic_model_wants(encoder, demo):
    (voice,) = encoder.encode([reference(demo)])
    assert {name: (array.shape, array.dtype) for name, array in voice.arrays.items()} == {
        "style_offset": ((256,), np.float32),
        "log_f0": ((1,), np.float32),
        "dvector": ((256,), np.float32),
    }
    assert np.linalg.norm(voice.arrays["dvector"]) == pytest.approx(1, abs=1e-5)


def test_only_a_voice_that_is_fitted_without_its_clip_gets_what_a_fit_needs(demo):
    encoder = SpeakerEncoder(threads=1)
    plain, again = encoder.encode([reference(demo), reference(demo[: 3 * RATE])])
    assert "campplus" not in plain.arrays and "campplus" not in again.arrays
    assert encoder._for_fits is None, "a request without a fit must not pay for the network"
    fitted, plain = encoder.encode([reference(demo, for_fit=True), reference(demo)])
    assert fitted.arrays["campplus"].shape == (192,) and "campplus" not in plain.arrays
    np.testing.assert_array_equal(fitted.arrays["campplus"], encoder._campplus().of_clip(without_pauses(demo)))


def test_the_same_speaker_is_nearer_than_another(encoder, demo):
    half = len(demo) // 2
    other = soxr.resample(demo, RATE, 12_000)  # a quarter longer waves: a larger, lower voice
    first, second, foreign = (
        voice.arrays["dvector"]
        for voice in encoder.encode([reference(demo[:half]), reference(demo[half:]), reference(other[:half])])
    )
    assert first @ second > first @ foreign + 0.1


def test_loudness_and_pauses_do_not_change_the_speaker(encoder, demo):
    pause = np.zeros(RATE, np.float32)
    half = len(demo) // 2
    loud, quiet, paused = (
        voice.arrays["dvector"]
        for voice in encoder.encode(
            [
                reference(demo),
                reference(demo * 0.03),
                reference(np.concatenate([pause, demo[:half], pause, demo[half:]])),
            ]
        )
    )
    assert loud @ quiet > 0.999
    assert loud @ paused > 0.98


def test_a_clip_without_a_voice_is_refused_in_its_place(encoder, demo):
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * RATE)
    before, refused, after = encoder.encode([reference(demo), reference(noise), reference(demo)])
    assert isinstance(refused, InvalidInput) and refused.code == "no_voice" and refused.param == "prompt_audio"
    np.testing.assert_allclose(before.arrays["dvector"], after.arrays["dvector"], atol=1e-6)


def test_a_second_of_speech_is_enough(encoder, demo):
    (voice,) = encoder.encode([reference(np.concatenate([demo[RATE : 2 * RATE], np.zeros(2 * RATE)]))])
    assert isinstance(voice, Voice) and np.isfinite(voice.arrays["style_offset"]).all()


def test_pauses_are_cut_and_something_is_always_left(demo):
    paused = np.concatenate([demo, np.zeros(3 * RATE, np.float32)])
    assert len(without_pauses(paused)) <= len(demo)
    assert len(without_pauses(np.zeros(RATE, np.float32))) > 0


def test_the_mapper_gives_the_same_offset_twice_and_another_to_another(mapper):
    random = np.random.default_rng(0)
    one, two = np.abs(random.normal(size=(2, 256))).astype(np.float32)
    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
    np.testing.assert_array_equal(mapper.offset(one, 4.8), StyleMapper.load().offset(one, 4.8))
    assert np.abs(mapper.offset(one, 4.8) - mapper.offset(two, 4.8)).max() > 1e-3
    assert np.abs(mapper.offset(one, 4.6) - mapper.offset(one, 5.4)).max() > 1e-3


def test_an_extreme_speaker_stays_where_speech_holds(mapper):
    """However odd the d-vector, no coordinate goes further than the mapper's limits."""
    offset = mapper.offset(np.full(256, 100, np.float32), 20.0)
    for half, axes, limit in ((slice(0, 128), mapper.acoustic_axes, 3.2), (PROSODY, mapper.prosody_axes, 2.2)):
        coordinates = offset[half] @ axes.T / (axes**2).sum(axis=1)
        assert np.abs(coordinates).max() <= limit * 1.001


def test_a_style_is_the_mean_pack_row_and_the_offset(mapper):
    voice = {"style_offset": np.arange(256, dtype=np.float32), "log_f0": np.array([5.0], np.float32)}
    for tokens, row in ((1, 0), (40, 39), (510, 509), (900, 509)):
        np.testing.assert_allclose(mapper.style(voice, tokens, "en"), mapper.mean_pack[row] + voice["style_offset"])
    with pytest.raises(ValueError):
        mapper.style(voice, 0, "en")


def test_mandarin_has_the_prosody_of_the_native_voice_nearest_in_pitch(mapper):
    offset = np.ones(256, np.float32)
    for native, log_f0 in enumerate(mapper.zh_log_f0):
        style = mapper.style({"style_offset": offset, "log_f0": np.array([log_f0])}, 30, "zh")
        np.testing.assert_array_equal(style[PROSODY], mapper.zh_prosody[native, 29])
        np.testing.assert_allclose(style[:128], mapper.mean_pack[29, :128] + mapper.zh_acoustic[29] + 1, rtol=1e-6)


def test_mandarin_goes_a_part_of_the_way_to_the_native_voices_in_every_length(mapper):
    lengths = np.linalg.norm(mapper.zh_acoustic, axis=1)
    assert mapper.zh_acoustic.shape == (510, 128)
    assert 0.5 < lengths.min() and lengths.max() < 1.5, "about as far as a speaker's offset"


def test_the_shared_rows_survive_a_style(mapper):
    before = mapper.mean_pack.copy()
    mapper.style({"style_offset": np.ones(256, np.float32), "log_f0": np.array([5.0])}, 30, "zh")
    np.testing.assert_array_equal(mapper.mean_pack, before)


def test_damaged_or_missing_mapper_data_is_refused(tmp_path):
    content = bytearray(DATA.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / DATA.name
    with pytest.raises(WeightsError, match="missing"):
        StyleMapper.load(path)
    path.write_bytes(content)
    path.with_name(path.name + ".sha256").write_text(DATA.with_name(DATA.name + ".sha256").read_text())
    with pytest.raises(WeightsError, match="damaged.*git checkout"):
        StyleMapper.load(path)
