"""The embedded engine's sound, made part by part with moments that are expected of the whole."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from engines.contract import ChunkAudio, Mel, MelChunk, StreamingVocoder, Utterance, Voice, WeightsError
from engines.embedded import deltas, loudness, moments, vocoder
from engines.embedded.finish import finish_part
from engines.embedded.istftnet_cpu import HALO, CpuVocoder
from engines.embedded.moments import Expected, MomentPredictor, VoiceMemory
from engines.embedded.stages import EmbeddedAcousticModel, EmbeddedVocoder
from engines.embedded.train import moments as training
from tests.unit.test_embedded_model import correlation, log_mel

RATE = 24_000
TEXTS = ["Turn the lamp off before you go.", "Not today, thank you,", "早上好，今天很冷。"]
VOICE = Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([5.0], np.float32)})


@pytest.fixture(scope="module")
def acoustic() -> EmbeddedAcousticModel:
    return EmbeddedAcousticModel()


@pytest.fixture(scope="module")
def mels(acoustic) -> list[Mel]:
    dialects = ["en-US", "en-US", "zh-CN"]
    made = acoustic.generate(
        [(Utterance(text, dialect, seed=3), VOICE) for text, dialect in zip(TEXTS, dialects, strict=True)]
    )
    return [mel for mel in made if isinstance(mel, Mel)]


@pytest.fixture(scope="module")
def model() -> EmbeddedVocoder:
    return EmbeddedVocoder(bf16=False)


@pytest.fixture(scope="module")
def memory(model, acoustic) -> VoiceMemory:
    """Return what the model knows once it has heard another sentence of the mels' voice, in both languages."""
    model._memory = VoiceMemory()
    for text in ("Everybody has heard of it by now.", "en-US"), ("今天晚上我们去看电影吧。", "zh-CN"):
        [mel] = acoustic.generate([(Utterance(*text, seed=9), VOICE)])
        [made] = model.vocode_chunks([(beginning(mel), 0)])
        assert isinstance(made, ChunkAudio) and made.complete
    return model._memory


@pytest.fixture
def heard(model, memory) -> EmbeddedVocoder:
    model._memory = deepcopy(memory)
    return model


def beginning(mel: Mel) -> MelChunk:
    return MelChunk(mel.arrays, 0.5, 0, final=False)


def parts(model: EmbeddedVocoder, mel: Mel, *ends: float) -> list[np.ndarray]:
    """The parts of a mel up to these seconds, and the last one."""
    made: list[np.ndarray] = []
    kept = None
    for end in [*ends, None]:
        chunk = MelChunk(mel.arrays, mel.seconds if end is None else end, 0, final=end is None, kept=kept)
        [part] = model.vocode_chunks([(chunk, sum(map(len, made)))])
        assert isinstance(part, ChunkAudio) and not part.complete, part
        made.append(part.samples)
        kept = part.kept
    return made


def test_with_the_moments_of_the_whole_a_part_is_what_it_was(mels, model):
    network = model._network
    assert isinstance(network, CpuVocoder) and isinstance(model, StreamingVocoder)
    arrays = mels[0].arrays
    sound = network.sound(
        *(torch.tensor(arrays[name])[None] for name in ("features", "f0")), torch.tensor(arrays["style"])
    )
    measured: list = []
    whole = network.part(sound, slice(0, sound.columns), measured=measured)
    assert len(whole) == 300 * sound.columns and len(measured) == 48
    edges = [0, 1, 40, 41 + HALO, sound.columns - 1, sound.columns]

    def same_in_parts() -> None:
        for start, stop in zip(edges, edges[1:], strict=False):
            part = network.part(sound, slice(start, stop), measured)
            assert (part - whole[300 * start : 300 * stop]).abs().max() < 2e-5

    same_in_parts()
    known = network.known(sound)
    assert sound.inputs
    same_in_parts()  # of what `known` has kept
    for norm, place in moments.EXACT.items():
        for mine, theirs in zip(known[place][1:], measured[norm][1:], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_what_is_expected_is_near_what_is_measured(mels, model):
    for mel in mels:
        features, pitch, style = (torch.tensor(mel.arrays[name]) for name in ("features", "f0", "style"))
        sound = model._network.sound(features[None], pitch[None], style)
        measured: list = []
        model._network.part(sound, slice(0, sound.columns), measured=measured)
        expected = MomentPredictor.load().expect(model._network.known(sound), style, sound.columns).moments
        for (_, mean, variance), (_, expected_mean, expected_variance) in zip(measured, expected, strict=True):
            assert ((expected_mean - mean) / variance.sqrt()).square().mean().sqrt() < 0.5
            assert (expected_variance / variance).log().square().mean().sqrt() < 0.6


def test_parts_sound_like_the_whole_and_as_loud(mels, heard):
    for mel in mels:
        assert mel.divisible
        joined = np.concatenate(parts(heard, mel, 0.5))
        [whole] = heard.vocode([mel])
        assert abs(len(joined) - len(whole)) < 0.15 * RATE
        assert abs(loudness.measure(joined, RATE).lufs - loudness.TARGET_LUFS) < 1.5
        assert np.abs(joined).max() <= 10 ** (loudness.CEILING_DBTP / 20) and np.isfinite(joined).all()
        shifts = range(-12, 13)  # columns: the silence before the speech is cut by another rule
        mine, theirs = log_mel(joined), log_mel(whole)
        size = min(mine.shape[1], theirs.shape[1]) - 24
        assert max(correlation(mine[:, 12 : 12 + size], theirs[:, 12 + s : 12 + s + size]) for s in shifts) > 0.9


def test_where_it_is_cut_makes_no_difference(mels, heard):
    one, other = (np.concatenate(parts(heard, mels[0], *ends)) for ends in ((0.5,), (0.3, 0.7, 1.1)))
    assert len(one) == len(other) and np.abs(one - other).max() < 1e-3


def test_any_replica_can_make_a_part_again_and_goes_on_as_another_has_begun(mels, heard):
    chunk = beginning(mels[0])
    first, again = heard.vocode_chunks([(chunk, 0), (chunk, 0)])
    assert isinstance(first, ChunkAudio) and isinstance(again, ChunkAudio)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert len(first.samples) == RATE // 2 and first.kept is not None and first.kept.nbytes < 100_000
    rest = replace(chunk, seconds=1.0, kept=first.kept)
    [here] = heard.vocode_chunks([(rest, RATE // 2)])
    heard._memory = VoiceMemory()  # a replica that has not heard the voice
    [there] = heard.vocode_chunks([(rest, RATE // 2)])
    assert isinstance(here, ChunkAudio) and isinstance(there, ChunkAudio) and not there.complete
    np.testing.assert_array_equal(here.samples, there.samples)


def test_each_part_tells_what_was_cut_off_before_the_first(mels, heard):
    """The times of words count from there."""
    for mel in mels:
        (_, whole_cut_s), cuts, kept = heard.vocode_timed([mel])[0], [], None
        for end, given in (0.5, 0), (1.0, RATE // 2), (60.0, RATE), (60.0, 60 * RATE):
            [part] = heard.vocode_chunks([(MelChunk(mel.arrays, end, 0, final=False, kept=kept), given)])
            cuts.append(part.cut_s)
            kept = part.kept
        assert len(set(cuts)) == 1 and cuts[0] == pytest.approx(whole_cut_s, abs=0.1)


def test_where_all_was_given_out_nothing_is_left(mels, heard):
    mel = mels[1]
    *_, last = parts(heard, mel, 0.5, 60.0)
    assert not len(last)


@pytest.mark.parametrize("fit", [False, True])
def test_a_voices_first_sound_is_made_whole_and_the_next_one_in_parts(mels, model, acoustic, fit):
    """A fit's deltas make another voice of it."""
    model._memory = VoiceMemory()
    if fit:
        model.vocode_chunks([(beginning(mels[1]), 0)])
        dice = np.random.default_rng(4).standard_normal(model._network._network.deltas).astype(np.float32)
        voice = Voice({**VOICE.arrays, deltas.OF_VOCODER: 0.05 * dice})
    else:
        voice = VOICE
    one, other = acoustic.generate([(Utterance(text, "en-US", seed=3), voice) for text in TEXTS[:2]])
    assert isinstance(one, Mel) and isinstance(other, Mel) and one.divisible
    [begun] = model.vocode_chunks([(beginning(one), 0)])
    assert isinstance(begun, ChunkAudio) and begun.complete
    ((whole, cut_s),) = model.vocode_timed([one])
    np.testing.assert_allclose(begun.samples, whole, atol=1e-5)
    assert begun.cut_s == cut_s > 0.1
    joined = np.concatenate(parts(model, other, 0.5))
    assert abs(loudness.measure(joined, RATE).lufs - loudness.TARGET_LUFS) < 2


def test_whole_sounds_teach_only_of_voices_that_came_in_chunks_and_no_more_than_they_can(mels, model, monkeypatch):
    """To learn from a sound takes 4 % longer, which answers that nobody waits for should not."""
    model._memory = VoiceMemory()
    learned = []
    learn = model._learn
    monkeypatch.setattr(model, "_learn", lambda network, mel: learned.append(mel) or learn(network, mel))
    [plain] = model.vocode([mels[1]])
    assert not learned
    model.vocode_chunks([(beginning(mels[1]), 0)])
    for _ in range(moments.LEARNED_FROM + 1):
        [again] = model.vocode([mels[1]])
        np.testing.assert_allclose(again, plain, atol=1e-5)
    assert len(learned) == moments.LEARNED_FROM


def test_a_silent_sound_teaches_nothing(mels, model):
    model._memory = VoiceMemory()
    arrays = {**mels[1].arrays, "features": np.zeros_like(mels[1].arrays["features"])}
    network = model._network
    silent = torch.zeros(300 * arrays["features"].shape[1])
    made, network.part = network.part, lambda *args, **kwargs: silent
    try:
        model.vocode_chunks([(beginning(replace(mels[1], arrays=arrays)), 0)])
    finally:
        network.part = made
    assert not model._memory.knows(arrays["speaker"].tobytes())


def expected(number: float) -> Expected:
    return Expected.of(np.full(2 * sum(moments.CHANNELS) + 1, number, np.float32), 10)


def test_a_memory_corrects_by_the_mean_of_what_it_was_off():
    memory = VoiceMemory()
    assert not memory.knows(b"a") and not memory.wants(b"a")
    for off in (0.5, 0.7, 0.9, 1.1):
        memory.learn(b"a", expected(1.0), expected(1.0 + off))
        assert memory.knows(b"a") and memory.wants(b"a") is (off < 1.1)
    np.testing.assert_allclose(memory.corrected(b"a", expected(2.0)).row, expected(2.8).row, atol=1e-4)


def test_a_memory_forgets_the_voice_that_was_not_used_for_the_longest_time():
    memory = VoiceMemory(voices=2)
    for voice in (b"a", b"b"):
        memory.learn(voice, expected(0), expected(1))
    memory.corrected(b"a", expected(0))
    memory.learn(b"c", expected(0), expected(1))
    assert [memory.knows(voice) for voice in (b"a", b"b", b"c")] == [True, False, True]


def test_a_peak_is_bent_and_not_clipped():
    loud = np.sin(np.arange(RATE, dtype=np.float32) / 9) * 0.3
    loud[RATE // 2] = 4.0
    part = finish_part(loud, RATE, loudness.TARGET_LUFS)
    assert part[RATE // 2] <= 10 ** (loudness.CEILING_DBTP / 20)
    np.testing.assert_array_equal(np.delete(part, RATE // 2), np.delete(loud, RATE // 2))


@pytest.mark.parametrize("speech_s", [0.0, 0.1])
def test_a_last_part_that_is_nearly_silent_is_trimmed_by_what_was_before_it(speech_s):
    part = np.random.default_rng(0).standard_normal(round(0.4 * RATE)).astype(np.float32) * 1e-5
    part[: round(speech_s * RATE)] += 0.01
    kept = finish_part(part, RATE, loudness.TARGET_LUFS, last=True)
    assert len(kept) / RATE == pytest.approx(speech_s + 0.08, abs=0.02)
    assert len(finish_part(part, RATE, loudness.TARGET_LUFS)) == len(part), "more is to come behind it"
    assert len(finish_part(part[:100], RATE, loudness.TARGET_LUFS, last=True)) == 100, "less than 10 ms"


def test_the_map_is_refused_where_it_is_damaged_or_missing(tmp_path):
    path = tmp_path / "moments.npz"
    with pytest.raises(WeightsError, match=r"missing.*git checkout"):
        MomentPredictor.load(path)
    path.write_bytes(moments.DATA.read_bytes()[:-1])
    (tmp_path / "moments.npz.sha256").write_bytes(moments.DATA.with_name("moments.npz.sha256").read_bytes())
    with pytest.raises(WeightsError, match=r"damaged.*git checkout"):
        MomentPredictor.load(path)


def test_a_fit_finds_a_linear_map_and_is_kept_as_it_was(tmp_path):
    dice = np.random.default_rng(0)
    known = dice.standard_normal((120, 1409)).astype(np.float32)
    true = dice.standard_normal((3, 18_433)) * 0.1
    wanted = (known[:, :3] @ true + 1).astype(np.float32)
    predictor = training.fit(known, wanted, rank=8, ridge=1e-6)
    rows = (known - predictor.known_mean) / predictor.known_scale
    said = rows @ predictor.basis @ predictor.weights + predictor.mean
    assert np.abs(said - wanted).max() < 0.01
    path = tmp_path / "moments.npz"
    training.save(predictor, path)
    read = MomentPredictor.load(path)
    for field in fields(read):
        mine, theirs = getattr(read, field.name), getattr(predictor, field.name)
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-3 * np.abs(theirs).max())


def test_a_sound_of_the_fit_is_the_same_each_time():
    sounds = training.Sounds()
    (known, wanted), (again, _) = sounds.observe(5, 1), sounds.observe(5, 1)
    np.testing.assert_allclose(known, again, atol=1e-5)
    assert known.shape == (1409,) and wanted.shape == (2 * sum(moments.CHANNELS) + 1,) and -60 < wanted[-1] < 0
    assert vocoder.SAMPLE_RATE == RATE
