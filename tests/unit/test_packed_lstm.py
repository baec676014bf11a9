"""The packed LSTM gives torch's numbers, for any length, in both directions."""

import pytest
import torch
from torch import nn

from engines.embedded.blocks import BidirectionalLSTM
from engines.embedded.direct_convolution import takes_packed
from engines.embedded.packed_lstm import TILES, PackedLSTM, tiles

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


def test_each_member_of_a_padded_batch_ends_where_it_ends():
    plain = BidirectionalLSTM(48)
    x, lengths = torch.randn(3, 70, 48), torch.tensor([70, 12, 33])
    made = PackedLSTM(plain, torch.float32)(x, lengths)
    torch.testing.assert_close(made, plain(x, lengths), atol=1e-5, rtol=1e-4)
    assert not made[1, 12:].any()


@pytest.mark.parametrize("steps", [1, 32, 33, 129, 500])
def test_tiles_cover_the_steps_and_little_more(steps):
    sizes = tiles(steps)
    assert set(sizes) <= set(TILES) and sizes == sorted(sizes, reverse=True)
    assert steps <= sum(sizes) < steps + TILES[-1]


@pytest.mark.parametrize(
    "other", [{"num_layers": 2}, {"bidirectional": False}, {"batch_first": False}, {"bias": False}]
)
def test_another_kind_is_refused(other):
    with pytest.raises(ValueError, match="one layer in both directions"):
        PackedLSTM(nn.LSTM(8, 8, **{"bidirectional": True, "batch_first": True} | other), torch.float32)
