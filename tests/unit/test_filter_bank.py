"""The filter bank has Kaldi's bands, and no mean.

tests/unit/test_cosyvoice3_frontend.py compares what the official code makes of its own one: a speaker's embedding.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.filter_bank import BANDS, RATE, filter_bank

EDGES = 700 * np.expm1(np.linspace(np.log1p(20 / 700), np.log1p(8000 / 700), BANDS + 2))  # Hz
TIME = np.arange(RATE) / RATE


@pytest.mark.parametrize("hz", [500, 1000, 5000])
def test_a_tone_lies_in_the_band_whose_triangle_is_over_it(hz):
    noise = np.random.default_rng(1).normal(0, 1e-3, RATE)
    tone = np.where(TIME < 0.5, 0, np.sin(2 * np.pi * hz * TIME))
    bank = filter_bank(torch.from_numpy((noise + tone).astype(np.float32)))
    assert bank.shape == (98, BANDS) and bank.dtype == torch.float32
    assert int((bank[-1] - bank[0]).argmax()) == int(np.argmin(np.abs(EDGES[1:-1] - hz)))


def test_a_tone_twice_as_loud_has_four_times_the_energy():
    rising = np.where(TIME < 0.5, 0.25, 0.5) * np.sin(2 * np.pi * 1000 * TIME)
    bank = filter_bank(torch.from_numpy(rising))
    band = int(np.argmin(np.abs(EDGES[1:-1] - 1000)))
    assert bank.dtype == torch.float64 and bank.mean(0).abs().max() < 1e-9
    assert float(bank[-1, band] - bank[0, band]) == pytest.approx(np.log(4), abs=0.01)
