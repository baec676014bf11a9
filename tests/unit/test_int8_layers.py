"""Layers in 8-bit integers give what the plain ones give, to the rounding of their inputs, and each member its own."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from engines.contract import Voice
from engines.embedded import acoustic, int8_layers
from engines.embedded.int8_layers import Int8Conv1d, Int8Linear
from engines.embedded.stages import EmbeddedAcousticModel
from speech.utterance import Utterance

pytestmark = [
    pytest.mark.optional,
    pytest.mark.skipif(not int8_layers.has_int8_instructions(), reason="this CPU has no VNNI"),
]
ROUNDING = 0.02  #: of the result's norm


def off(made: torch.Tensor, expected: torch.Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


@pytest.fixture(autouse=True)
def the_same_every_time():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def test_a_linear_layer_gives_what_the_plain_one_gives():
    plain = nn.Linear(96, 80)
    x = torch.randn(2, 5, 96)
    made = Int8Linear(plain)(x)
    assert made.shape == (2, 5, 80)
    assert 0 < off(made, plain(x)) < ROUNDING


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_gives_what_the_plain_one_gives(kernel, bias):
    plain = nn.Conv1d(48, 64, kernel, padding=kernel // 2, bias=bias)
    x = torch.randn(3, 48, 17)
    made = Int8Conv1d(plain)(x)
    assert made.shape == (3, 64, 17)
    assert 0 < off(made, plain(x)) < ROUNDING
    edges = [0, -1]
    assert off(made[..., edges], plain(x)[..., edges]) < ROUNDING, "there are no zeros around"


def test_inputs_far_from_zero_are_not_cut():
    """Integers reach as far as the inputs do: all negative, all positive, or very large."""
    plain = nn.Conv1d(32, 32, 3, padding=1)
    for x in (torch.rand(1, 32, 40) + 3, -torch.rand(1, 32, 40) - 3, torch.randn(1, 32, 40) * 1e4):
        assert off(Int8Conv1d(plain)(x), plain(x)) < ROUNDING


def test_no_row_and_no_member_changes_another():
    linear, convolution = Int8Linear(nn.Linear(64, 64)), Int8Conv1d(nn.Conv1d(64, 64, 3, padding=1))
    rows, members = torch.randn(6, 64), torch.randn(2, 64, 20)
    loud_rows, loud = rows.clone(), members.clone()
    loud_rows[3] *= 1000
    loud[1] *= 1000
    others = [0, 1, 2, 4, 5]
    assert torch.equal(linear(loud_rows)[others], linear(rows)[others])
    assert torch.equal(convolution(loud)[0], convolution(members)[0])


def test_silence_gives_the_bias():
    linear, convolution = nn.Linear(64, 64), nn.Conv1d(64, 64, 3, padding=1)
    assert torch.equal(Int8Linear(linear)(torch.zeros(2, 64)), linear.bias.expand(2, 64))
    assert torch.equal(Int8Conv1d(convolution)(torch.zeros(1, 64, 4))[0, :, 1], convolution.bias)


@pytest.mark.parametrize(
    "other", [{"stride": 2}, {"dilation": 2}, {"padding": 0}, {"groups": 2}, {"kernel_size": 4, "padding": 2}]
)
def test_another_kind_of_convolution_is_refused(other):
    with pytest.raises(ValueError, match="keep the length"):
        Int8Conv1d(nn.Conv1d(8, 8, **{"kernel_size": 3, "padding": 1} | other))


def test_small_layers_stay_as_they_are():
    network = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(300, 300), nn.Conv1d(300, 300, 1)), nn.LSTM(9, 9))
    int8_layers.put_into(network)
    assert [type(layer) for layer in network.modules()][1:] == [
        nn.Linear,
        nn.Sequential,
        Int8Linear,
        Int8Conv1d,
        nn.LSTM,
    ]


def test_the_decoder_s_features_are_nearly_the_same():
    decoder = acoustic.load().decoder
    in_integers = copy.deepcopy(decoder)
    int8_layers.put_into(in_integers)
    text, energy, style = torch.randn(1, 512, 60), torch.randn(1, 1, 120), torch.randn(1, 128) * 0.3
    pitch = torch.full((1, 1, 120), 150.0)
    plain, made = (one(text, pitch, energy, style, None, None) for one in (decoder, in_integers))
    assert 20 * math.log10(1 / off(made, plain)) > 15


@pytest.fixture(scope="module")
def models() -> dict[bool, EmbeddedAcousticModel]:
    return {int8: EmbeddedAcousticModel(threads=1, int8=int8) for int8 in (False, True)}


def test_a_text_takes_as_long_and_its_melody_moves_as_much(models):
    jobs = [
        (Utterance(text, dialect), voice(hz))
        for text, dialect in (
            ("Please put the blue folder back where you found it, and tell me when you are done.", "en-US"),
            ("明天下午我们在图书馆见面，然后一起去吃饭。", "zh-CN"),
            ("来年の夏は家族と一緒に海へ行くつもりです。", "ja-JP"),
        )
        for hz in (110, 200)
    ]
    plain, made = (model.generate(jobs) for model in models.values())
    for one, other in zip(plain, made, strict=True):
        assert other.seconds == pytest.approx(one.seconds, rel=0.05)
        melodies = [12 * np.log2(mel.arrays["f0"][mel.arrays["f0"] > 60]) for mel in (one, other)]
        assert np.median(melodies[1]) == pytest.approx(np.median(melodies[0]), abs=0.5)
        assert melodies[1].std() == pytest.approx(melodies[0].std(), rel=0.15)


def test_a_batch_gives_exactly_what_its_members_give_alone(models):
    """Rounding would make durations of tiny differences, so members are computed one by one."""
    jobs = [
        (Utterance(text, "en-US"), voice(150)) for text in ("Not today.", "It is on the table by the door.", "Yes!")
    ]
    for job, mel in zip(jobs, models[True].generate(jobs), strict=True):
        [alone] = models[True].generate([job])
        for name, array in alone.arrays.items():
            np.testing.assert_array_equal(mel.arrays[name], array)


def voice(hz: float) -> Voice:
    return Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([math.log(hz)], np.float32)})
