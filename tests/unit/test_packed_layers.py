"""Layers with packed weights give what plain ones give, to their inputs' rounding, and each member its own."""

import pytest
import torch
from torch import nn

from engines.embedded.packed_layers import PackedConv1d, PackedLinear, Precision
from tests.helpers.packed import PRECISIONS

pytestmark = pytest.mark.optional
ROUNDING = {"bfloat16": 0.005, "int8": 0.02}  #: of the result's norm


def off(made: torch.Tensor, expected: torch.Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


@pytest.fixture(params=PRECISIONS)
def precision(request) -> Precision:
    return request.param


@pytest.fixture(autouse=True)
def the_same_every_time():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def test_a_linear_layer_gives_what_the_plain_one_gives(precision):
    plain = nn.Linear(96, 80)
    x = torch.randn(2, 5, 96)
    made = PackedLinear(plain, precision)(x)
    assert made.shape == (2, 5, 80) and made.dtype == torch.float32
    assert 0 < off(made, plain(x)) < ROUNDING[precision]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_gives_what_the_plain_one_gives(kernel, bias, precision):
    plain = nn.Conv1d(48, 64, kernel, padding=kernel // 2, bias=bias)
    x = torch.randn(3, 48, 17)
    made = PackedConv1d(plain, precision)(x)
    assert made.shape == (3, 64, 17) and made.dtype == torch.float32
    assert 0 < off(made, plain(x)) < ROUNDING[precision]
    edges = [0, -1]
    assert off(made[..., edges], plain(x)[..., edges]) < ROUNDING[precision], "there are no zeros around"


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 256, 257, 600])
def test_any_number_of_rows_is_computed(rows, precision):
    linear, conv = nn.Linear(40, 24), nn.Conv1d(40, 24, 3, padding=1)
    x = torch.randn(rows, 40)
    assert off(PackedLinear(linear, precision)(x), linear(x)) < ROUNDING[precision]
    assert off(PackedConv1d(conv, precision)(x.T[None]), conv(x.T[None])) < ROUNDING[precision]


def test_inputs_far_from_zero_are_not_cut(precision):
    """They are all negative, all positive, or very large."""
    plain = nn.Conv1d(32, 32, 3, padding=1)
    for x in (torch.rand(1, 32, 40) + 3, -torch.rand(1, 32, 40) - 3, torch.randn(1, 32, 40) * 1e4):
        assert off(PackedConv1d(plain, precision)(x), plain(x)) < ROUNDING[precision]


def test_no_row_and_no_member_changes_another(precision):
    linear = PackedLinear(nn.Linear(64, 64), precision)
    convolution = PackedConv1d(nn.Conv1d(64, 64, 3, padding=1), precision)
    rows, members = torch.randn(6, 64), torch.randn(2, 64, 20)
    loud_rows, loud = rows.clone(), members.clone()
    loud_rows[3] *= 1000
    loud[1] *= 1000
    others = [0, 1, 2, 4, 5]
    assert torch.equal(linear(loud_rows)[others], linear(rows)[others])
    assert torch.equal(convolution(loud)[0], convolution(members)[0])


def test_silence_gives_the_bias(precision):
    linear, convolution = nn.Linear(64, 64), nn.Conv1d(64, 64, 3, padding=1)
    for plain in (linear, convolution):
        plain.bias.copy_(plain.bias.bfloat16())  # bfloat16 holds these numbers exactly
    assert torch.equal(PackedLinear(linear, precision)(torch.zeros(2, 64)), linear.bias.expand(2, 64))
    assert torch.equal(PackedConv1d(convolution, precision)(torch.zeros(1, 64, 4))[0, :, 1], convolution.bias)


@pytest.mark.parametrize(
    "other", [{"stride": 2}, {"dilation": 2}, {"padding": 0}, {"groups": 2}, {"kernel_size": 4, "padding": 2}]
)
def test_another_kind_of_convolution_is_refused(other):
    with pytest.raises(ValueError, match="keep the length"):
        PackedConv1d(nn.Conv1d(8, 8, **{"kernel_size": 3, "padding": 1} | other), "int8")
