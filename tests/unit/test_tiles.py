"""Tiles cover a length, and little more."""

import pytest

from engines.embedded import direct_convolution, packed_layers, packed_lstm
from engines.embedded.tiles import tiles


@pytest.mark.parametrize("sizes", [direct_convolution.TILES, packed_layers.TILES, packed_lstm.TILES])
@pytest.mark.parametrize("full_enough", [0.0, 0.55])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 49, 100, 129, 255, 257, 300, 511, 513, 1100, 1800, 2641, 4097, 9000])
def test_they_cover_a_length_large_ones_first(sizes, full_enough, length):
    found = tiles(length, sizes, full_enough)
    assert length <= sum(found) and sum(found[:-1]) < length
    assert set(found) <= set(sizes) and found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    "length, full_enough, expected",
    [
        (0, 0.0, []),
        (70, 0.0, [96]),
        (70, 0.8, [64, 32]),
        (128, 0.0, [128]),
        (129, 0.0, [128, 32]),
        (300, 0.0, [128, 128, 64]),
    ],
)
def test_a_rest_is_in_one_tile_if_it_fills_enough_of_it(length, full_enough, expected):
    assert tiles(length, (128, 96, 64, 32), full_enough) == expected


def test_a_stream_s_first_part_fills_its_tile():
    assert tiles(2641, direct_convolution.TILES, 0.55) == [2688]
