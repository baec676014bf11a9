"""Kokoro-82M as torch modules: a batch equals its members alone, a seed repeats, and the ONNX graph agrees."""

import numpy as np
import pytest
import torch

from engines.embedded import acoustic, quantized, vocoder
from engines.embedded.mapper import StyleMapper
from engines.embedded.text import load as load_text

SENTENCES = ["Come in, please.", "Hello.", "See you soon, she said."]


@pytest.fixture(scope="module")
def ids():
    front_end = load_text(["en"])
    return [front_end.ids(front_end.phonemes(sentence, "en", "en-US")) for sentence in SENTENCES]


@pytest.fixture(scope="module")
def styles(ids):
    pack = StyleMapper.load().mean_pack
    return torch.from_numpy(np.stack([pack[len(one) - 1] for one in ids]))


@pytest.fixture(scope="module")
def acoustic_network():
    torch.set_num_threads(1)
    return acoustic.load()


@pytest.fixture(scope="module")
def network():
    return vocoder.load_network()


@pytest.fixture(scope="module")
def spoken(acoustic_network, ids, styles):
    """The three sentences as one padded batch, each with its own speed and pitch."""
    return acoustic_network(*acoustic.pad(ids), styles, torch.tensor([1.0, 0.8, 1.25]), torch.tensor([4.8, 5.3, 5.0]))


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """80 mel bands (HTK formula), 300 samples a column, dB above -70."""
    power = torch.stft(torch.as_tensor(waveform), 1024, 300, window=torch.hann_window(1024), return_complex=True)
    edges = 700 * (10 ** (torch.linspace(0, 2595 * np.log10(1 + 12000 / 700), 82) / 2595) - 1)
    bins = torch.linspace(0, 12000, 513)
    low, middle, high = (edges[i : i + 80, None] for i in range(3))
    bank = torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clamp(min=0)
    return 10 * torch.log10((bank @ power.abs().square()).clamp(min=1e-7)).numpy()


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_all_parameters_of_kokoro_are_there(acoustic_network, network):
    count = sum(p.numel() for part in (acoustic_network, network) for p in part.parameters())
    assert round(count / 1e6, 1) == 81.1


def test_an_acoustic_batch_equals_its_members_alone(acoustic_network, ids, styles, spoken):
    for i, (speed, log_pitch) in enumerate([(1.0, 4.8), (0.8, 5.3), (1.25, 5.0)]):
        alone = acoustic_network(*acoustic.pad([ids[i]]), styles[i : i + 1], speed, torch.tensor([log_pitch]))
        frames = int(alone.frames)
        assert torch.equal(alone.durations[0], spoken.durations[i, : len(ids[i]) + 2])
        assert int(spoken.frames[i]) == frames
        np.testing.assert_allclose(spoken.features[i, :, : 2 * frames], alone.features[0], atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(spoken.pitch[i, : 2 * frames], alone.pitch[0], atol=0.05, rtol=1e-3)


def test_a_vocoder_batch_equals_its_members_alone(network, styles, spoken):
    together = network(spoken.features, spoken.pitch, styles, 2 * spoken.frames, [3, 4, 5])
    for i, columns in enumerate((2 * spoken.frames).tolist()):
        alone = network(
            spoken.features[i : i + 1, :, :columns], spoken.pitch[i : i + 1, :columns], styles[i : i + 1], seeds=[3 + i]
        )[0]
        assert len(alone) == columns * vocoder.SAMPLES_PER_COLUMN
        np.testing.assert_allclose(together[i, : len(alone)], alone, atol=1e-3, rtol=0)


def test_the_cpu_vocoder_gives_the_same_numbers(network, styles, spoken):
    expected = network(spoken.features, spoken.pitch, styles, 2 * spoken.frames)
    exact = vocoder.CpuVocoder(network, bf16=False)(spoken.features, spoken.pitch, styles, 2 * spoken.frames)
    for i, samples in enumerate((600 * spoken.frames).tolist()):
        np.testing.assert_allclose(exact[i, :samples], expected[i, :samples], atol=1e-3, rtol=0)


@pytest.mark.proof
def test_bfloat16_is_not_to_be_heard(network, styles, spoken):
    columns = 2 * int(spoken.frames[0])
    member = spoken.features[:1, :, :columns], spoken.pitch[:1, :columns], styles[:1]
    exact, rounded = (vocoder.CpuVocoder(network, bf16)(*member)[0].numpy() for bf16 in (False, True))
    assert correlation(log_mel(exact), log_mel(rounded)) >= 0.999
    assert not np.array_equal(exact, rounded), "bfloat16 was not used at all"


def test_a_seed_repeats_alone_and_in_a_batch(network, styles, spoken):
    cpu = vocoder.CpuVocoder(network, bf16=False)
    columns = 2 * spoken.frames
    one = int(columns[1])
    member = spoken.features[1:2, :, :one], spoken.pitch[1:2, :one], styles[1:2]
    first, again, other = (cpu(*member, seeds=[seed])[0] for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    in_batch = cpu(spoken.features, spoken.pitch, styles, columns, [1, 7, 2])[1, : len(first)]
    np.testing.assert_allclose(in_batch, first, atol=1e-3, rtol=0)


def test_the_pitch_is_moved_to_the_one_asked_for(spoken):
    """The loud frames' median is the target; soft ends of words lie lower (test_embedded_engine.py listens)."""
    for curve, frames, target in zip(spoken.pitch, spoken.frames.tolist(), (4.8, 5.3, 5.0), strict=True):
        voiced = curve[: 2 * frames][curve[: 2 * frames] > acoustic.VOICED_HZ]
        assert target - 0.35 < float(voiced.median().log()) < target + 0.02


def test_only_voiced_frames_move_and_loud_ones_decide():
    pitch = torch.tensor([[[100.0] * 6 + [60.0] * 8 + [5.0] * 6]])
    energy = torch.tensor([[[8.0] * 6 + [1.0] * 8 + [-9.0] * 6]])
    moved = acoustic._move_pitch(pitch, energy, torch.tensor([20]), torch.tensor([200.0]).log())[0, 0]
    assert moved.tolist() == pytest.approx([200.0] * 6 + [120.0] * 8 + [5.0] * 6)
    silent = torch.full((1, 1, 20), 5.0)
    assert torch.equal(acoustic._move_pitch(silent, energy, torch.tensor([20]), torch.tensor([5.0])), silent)


def test_the_onnx_graph_agrees(acoustic_network, network, ids, styles):
    """The int8 graph that the weights come from, run by onnxruntime, is an independent reading of the same model."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make test installs it")
    session = onnxruntime.InferenceSession(quantized.content(), providers=["CPUExecutionProvider"])
    tokens = np.array([[0, *ids[2], 0]], np.int64)
    expected, *_ = session.run(None, {"tokens": tokens, "style": styles[2:3].numpy(), "speed": np.ones(1, np.float32)})
    expected = expected.ravel()
    ours = acoustic_network(*acoustic.pad([ids[2]]), styles[2:3])
    waveform = network(ours.features, ours.pitch, styles[2:3])[0].numpy()
    frames = len(expected) // 600
    assert abs(int(ours.frames) - frames) <= 3
    expected, waveform = log_mel(expected), log_mel(waveform)
    assert correlation(expected.mean(axis=1), waveform.mean(axis=1)) >= 0.99
    if int(ours.frames) == frames:  # int8 rounds durations a little differently from CPU to CPU
        assert correlation(expected, waveform) >= 0.97
