"""The embedded engine behind the contract: texts in three languages to speech, bad ones failing alone."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import soxr
import torch

from engines.contract import Mel, Utterance, Voice, WeightsError, create
from engines.embedded import loudness, pitch
from engines.embedded.acoustic import _at_speed
from engines.embedded.finish import finish
from speech.errors import InternalError, InvalidInput, SpeechError, UnsupportedDialect

LOG_F0 = math.log(150)
VOICE = Voice(
    {
        "style_offset": np.zeros(256, np.float32),
        "log_f0": np.array([LOG_F0], np.float32),
        "dvector": np.zeros(256, np.float32),
    }
)


@pytest.fixture(scope="module")
def engine():
    return create("embedded")


@pytest.fixture(scope="module")
def acoustic(engine):
    return engine.load_acoustic_model(threads=1)


@pytest.fixture(scope="module")
def vocoder(engine):
    return engine.load_vocoder(threads=1)


def say(acoustic, text: str, dialect: str = "en-US", **options) -> Mel:
    (mel,) = acoustic.generate([(Utterance(text, dialect, **options), VOICE)])
    if isinstance(mel, SpeechError):
        raise mel
    return mel


def test_the_ingress_can_check_without_loading_torch():
    code = (
        "import sys; from engines.contract import Utterance, create; engine = create('embedded');"
        "engine.check(Utterance('Hi', 'en-US', mode='instruct', style_instruction='slowly'));"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_dialect_it_cannot_speak_is_refused_with_those_it_can(engine):
    with pytest.raises(UnsupportedDialect, match="Sichuanese.*en-US.*zh-CN.*ja-JP"):
        engine.check(Utterance("你好", "zh-Sichuan"))


@pytest.mark.parametrize(
    "utterance",
    [
        Utterance("Hi", "en-US", mode="sing"),
        Utterance("Hi", "en-US", mode="instruct"),
        Utterance("Hi", "en-US", mode="instruct", style_instruction="like a pirate"),
    ],
)
def test_modes_and_instructions_it_does_not_know_are_refused(engine, utterance):
    with pytest.raises(InvalidInput):
        engine.check(utterance)


@pytest.mark.parametrize(
    "options, error", [({"bf16": "yes"}, ValueError), ({"int8": "yes"}, ValueError), ({"bf17": True}, ValueError)]
)
def test_a_bad_option_is_refused(options, error):
    with pytest.raises(error, match=next(iter(options))):
        create("embedded", options)


def test_the_capabilities_say_that_it_is_no_clone(engine):
    assert "no true clone" in engine.capabilities.notice
    assert engine.capabilities.dialects >= {"en-US", "zh-CN", "ja-JP"}


def test_another_mapper_is_another_version(engine, tmp_path, monkeypatch):
    assert re.fullmatch(r"2-[0-9a-f]{8}", engine.capabilities.version)
    (tmp_path / "mapper.npz.sha256").write_text("0123456789abcdef  mapper.npz\n")
    monkeypatch.setattr("engines.embedded.DATA", tmp_path / "mapper.npz")
    assert create("embedded").capabilities.version == "2-01234567"
    (tmp_path / "mapper.npz.sha256").unlink()
    with pytest.raises(WeightsError, match="mapper.npz.sha256 is missing.*git checkout"):
        create("embedded")


def test_it_speaks_three_languages_and_a_bad_text_fails_alone(acoustic, vocoder):
    texts = [("A short test.", "en-US"), ("!!!", "en-US"), ("今天天气很好。", "zh-CN"), ("こんにちは。", "ja-JP")]
    mels = acoustic.generate([(Utterance(text, dialect), VOICE) for text, dialect in texts])
    assert isinstance(mels[1], InvalidInput)
    sound = [mel for mel in mels if isinstance(mel, Mel)]
    assert len(sound) == 3
    for mel in sound:
        assert [phase.name for phase in mel.phases] == ["TEXT_FRONTEND", "ACOUSTIC_MODEL"]
        assert all(phase.start_ns <= phase.end_ns for phase in mel.phases)
        whole = {name: array.dtype for name, array in mel.arrays.items() if array.dtype != np.float32}
        assert whole == {"seed": np.int64, "spoken": np.int64, "speaker": np.uint8}
    for waveform in vocoder.vocode(sound):
        assert waveform.dtype == np.float32 and waveform.ndim == 1
        assert 0.5 < len(waveform) / 24000 < 4
        assert 0.05 < np.abs(waveform).max() <= 0.9
        assert waveform[0] == 0 and waveform[-1] == 0
        assert np.abs(waveform[2880:-2880]).max() == np.abs(waveform).max(), "silent edges are longer than 120 ms"


def test_a_broken_mel_fails_alone(acoustic, vocoder):
    mel = say(acoustic, "Hello.")
    broken = Mel({**mel.arrays, "features": mel.arrays["features"][:100]}, mel.seconds)
    first, second = vocoder.vocode([broken, mel])
    assert isinstance(first, InternalError)
    assert isinstance(second, np.ndarray)


def test_british_and_american_english_differ(acoustic):
    american, british = (say(acoustic, "The car park is not far.", dialect) for dialect in ("en-US", "en-GB"))
    assert not np.array_equal(american.arrays["features"], british.arrays["features"])


def test_speed_and_instruction_change_tempo_pitch_and_loudness(acoustic):
    plain, fast = say(acoustic, "Read this aloud."), say(acoustic, "Read this aloud.", speed=2.0)
    assert fast.seconds < 0.75 * plain.seconds
    excited = say(acoustic, "Read this aloud.", mode="instruct", style_instruction="兴奋地说")
    slow = say(acoustic, "Read this aloud.", mode="instruct", style_instruction="slowly")
    assert excited.seconds < plain.seconds < slow.seconds
    assert excited.arrays["gain"][0] > 1 == plain.arrays["gain"][0]
    assert median_pitch(plain) == pytest.approx(150, rel=0.02)
    assert median_pitch(excited) > 1.05 * median_pitch(plain)


def median_pitch(mel: Mel) -> float:
    f0 = mel.arrays["f0"]
    return float(np.median(f0[f0 > 40]))


def test_a_text_of_more_sounds_than_the_network_takes_is_said_whole_and_unhurried(acoustic):
    sentence = "今天天气很好，我们去散步吧。"
    four, fourteen = (say(acoustic, sentence * count, "zh-CN") for count in (4, 14))
    assert len(sentence * 14) <= 200
    assert fourteen.seconds == pytest.approx(14 / 4 * four.seconds, rel=0.15)
    assert len(fourteen.arrays["f0"]) == fourteen.arrays["features"].shape[1]


def test_the_same_seed_gives_the_same_audio(acoustic, vocoder):
    first, again, other = (vocoder.vocode([say(acoustic, "Yes.", seed=seed)])[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_finishing_trims_and_levels():
    tone = np.sin(np.arange(24000) * 0.1).astype(np.float32) * 0.5
    waveform = np.concatenate([np.zeros(12000, np.float32), tone, np.zeros(9000, np.float32)])
    finished, trimmed = finish(waveform, 24000)
    assert trimmed == pytest.approx(12000 - 0.08 * 24000, abs=240)
    assert len(finished) / 24000 == pytest.approx(1.16, abs=0.021)
    assert loudness.measure(finished, 24000).lufs == pytest.approx(-23, abs=0.2)
    louder, _ = finish(waveform, 24000, gain=2.0)
    np.testing.assert_allclose(louder, 2 * finished, rtol=1e-5, atol=1e-7)
    assert np.abs(finish(waveform, 24000, gain=100.0)[0]).max() == pytest.approx(10 ** (-1 / 20), abs=0.01)
    np.testing.assert_array_equal(waveform[:12000], 0)
    assert not finish(np.zeros(2400, np.float32), 24000)[0].any()
    assert finish(np.zeros(0, np.float32), 24000)[0].shape == (0,)


@pytest.mark.parametrize("rate", [16000, 24000, 48000])
@pytest.mark.parametrize("seconds", [0.1, 0.4, 3.0])
def test_a_full_scale_sine_of_997_hz_has_the_standard_s_loudness(rate, seconds):
    """BS.1770-4 gives -3.01 LUFS for it; `seconds` below its block are repeated, here by whole periods."""
    count = round(seconds * 997) * rate / 997
    sine = np.sin(np.arange(round(count)) * 2 * np.pi * 997 / rate).astype(np.float32)
    found = loudness.measure(sine, rate)
    assert found.lufs == pytest.approx(-3.01, abs=0.1)
    assert found.peak == pytest.approx(1.0, abs=0.05)


def test_the_true_peak_lies_between_samples():
    sine = np.sin(np.arange(24000) * np.pi / 2 + np.pi / 4).astype(np.float32)  # its samples are at 0.71 of its peak
    sine *= np.hanning(len(sine)).astype(np.float32)
    assert np.abs(sine).max() == pytest.approx(0.7071, abs=1e-3)
    assert loudness.measure(sine, 24000).peak == pytest.approx(1.0, abs=0.05)


def test_voices_and_texts_are_equally_loud_and_loud_is_6_db_more(acoustic, vocoder):
    rng = np.random.default_rng(0)
    offsets = [np.zeros(256, np.float32), *(rng.normal(0, 0.12, (2, 256)).astype(np.float32))]
    voices = [Voice({"style_offset": offset, "log_f0": np.array([4.9], np.float32)}) for offset in offsets]
    texts = ["Yes.", "The ferry leaves the island shortly after sunrise.", "Read this aloud, please."]
    jobs = [(Utterance(text, "en-US"), voice) for text, voice in zip(texts, voices, strict=True)]
    levels = [loudness.measure(wave, 24000).lufs for wave in vocoder.vocode(acoustic.generate(jobs))]
    assert levels == pytest.approx([-23] * 3, abs=0.3)
    loud = Utterance(texts[1], "en-US", mode="instruct", style_instruction="loudly")
    plain, raised = vocoder.vocode(acoustic.generate([(Utterance(texts[1], "en-US"), voices[0]), (loud, voices[0])]))
    before, after = (loudness.measure(wave, 24000) for wave in (plain, raised))
    room = -1 - 20 * math.log10(before.peak)
    assert after.lufs - before.lufs == pytest.approx(min(6, room), abs=0.7)
    assert after.peak <= 10 ** (-1 / 20) + 0.01


@pytest.mark.parametrize("speed", [0.5, 0.75, 1.1, 1.25, 1.5, 2.0])
def test_speed_is_what_was_asked_for(acoustic, speed):
    text = "Tomorrow morning the first train leaves at six, so please be at the station a little earlier."
    plain, changed = say(acoustic, text), say(acoustic, text, speed=speed)
    assert plain.seconds / changed.seconds == pytest.approx(speed, rel=0.01)


def test_frames_at_a_speed_keep_the_whole_s_length_and_each_phoneme_one_frame():
    frames = torch.tensor([[3.0, 1, 1, 1, 1, 7, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 9]])
    for speed in (0.5, 0.8, 1.0, 1.25, 2.0):
        found = _at_speed(frames, torch.tensor([speed, speed]))
        assert (found >= 1).all()
        assert abs(found[0, :7].sum().item() - max(7, frames[0].sum().item() / speed)) <= 1
    assert torch.equal(_at_speed(frames, torch.ones(2))[:, :7], frames[:, :7])
    # Nine phonemes of one frame each can't be faster; the long one at the end makes up for it.
    assert _at_speed(frames, torch.full((2,), 2.0))[1].tolist() == [1] * 9


def test_a_part_that_ends_in_a_clause_is_joined_without_a_long_pause(acoustic, vocoder):
    clauses = "we walked along the river in the morning, then we crossed the old bridge near the mill, "
    text = clauses * 3 + "and looked at the valley below."
    assert len(acoustic._text.split(acoustic._text.phonemes(text, "en", "en-US"), 250)) > 1
    (wave,) = vocoder.vocode([say(acoustic, text)])
    frames = np.square(wave[: len(wave) // 240 * 240].reshape(-1, 240)).mean(1)
    quiet = "".join("." if one < frames.max() * 1e-4 else "#" for one in frames).strip(".")
    longest = max(map(len, re.findall(r"\.+", quiet))) / 100
    assert longest <= 0.75, f"a pause of {longest} s"


@pytest.mark.proof
def test_the_speech_has_the_reference_s_pitch(vocoder):
    """Measured in the speech by the estimator that measures the reference.

    In float32 wherever it runs; test_int8_layers.py compares the melody in integers with this one.
    """
    acoustic = create("embedded", {"int8": False}).load_acoustic_model(threads=1)
    texts = {
        "en-US": "Please put the blue folder back where you found it, and tell me when you are done.",
        "zh-CN": "明天下午我们在图书馆见面，然后一起去吃饭。",
        "ja-JP": "来年の夏は家族と一緒に海へ行くつもりです。",
    }
    jobs = [
        (Utterance(text, dialect), Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([hz], "f4")}))
        for dialect, text in texts.items()
        for hz in np.log([110, 200])
    ]
    waves = vocoder.vocode(acoustic.generate(jobs))
    found = [pitch.median_log_f0(soxr.resample(wave, 24000, 16000)) for wave in waves]
    errors = [12 / math.log(2) * (hz - voice.arrays["log_f0"][0]) for hz, (_, voice) in zip(found, jobs, strict=True)]
    # The worst is a low voice in Mandarin, whose lowest tones the estimator does not hear. With all voiced frames in
    # the median the mean was 1.6 and the worst 3.6. The step toward the native voices (mapper.zh_acoustic) took the
    # worst from 2.4 to 3.0.
    assert np.abs(errors).mean() < 1.0 and np.abs(errors).max() < 3.3, errors
