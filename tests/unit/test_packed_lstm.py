"""The packed LSTM gives torch's numbers, for any length, in both directions."""

import pytest
import torch
from torch import nn

from engines.embedded.blocks import BidirectionalLSTM
from engines.embedded.direct_convolution import takes_packed
from engines.embedded.packed_lstm import PackedLSTM

pytestmark = pytest.mark.skipif(not takes_packed(torch.float32), reason="this torch has no oneDNN")
LENGTHS = [1, 31, 32, 33, 63, 100, 200]
needs_bfloat16 = pytest.mark.skipif(not takes_packed(torch.bfloat16), reason="oneDNN takes no bfloat16 on this CPU")


@pytest.fixture(autouse=True)
def the_same_every_time():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("steps", LENGTHS)
def test_it_gives_the_plain_one_s_numbers(steps):
    plain = BidirectionalLSTM(48)
    x = torch.randn(2, steps, 48)
    made = PackedLSTM(plain, torch.float32)(x)
    torch.testing.assert_close(made, plain(x, None), atol=1e-5, rtol=1e-4)


@needs_bfloat16
@pytest.mark.parametrize("steps", LENGTHS)
def test_in_bfloat16_it_is_off_by_little(steps):
    plain = BidirectionalLSTM(48)
    x = torch.randn(1, steps, 48)
    made, expected = PackedLSTM(plain, torch.bfloat16)(x), plain(x, None)
    assert made.dtype == torch.float32
    assert 0 < float((made - expected).norm() / expected.norm()) < 0.01


def test_a_padded_batch_is_refused():
    with pytest.raises(ValueError, match="not padded"):
        PackedLSTM(BidirectionalLSTM(8), torch.float32)(torch.randn(2, 9, 8), torch.tensor([9, 4]))


@pytest.mark.parametrize(
    "other", [{"num_layers": 2}, {"bidirectional": False}, {"batch_first": False}, {"bias": False}]
)
def test_another_kind_is_refused(other):
    with pytest.raises(ValueError, match="one layer in both directions"):
        PackedLSTM(nn.LSTM(8, 8, **{"bidirectional": True, "batch_first": True} | other), torch.float32)
