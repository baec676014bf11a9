"""The doctor's arithmetic, against values that are known."""

from __future__ import annotations

import random

import pytest

from cluster.doctor.figures import mean, ms, percent, quantile, successes, wilson


def test_weights_count_as_so_many_samples():
    assert mean([(1, 10), (12, 1)]) == 2
    assert quantile([(1, 9), (100, 1)], 0.5) == 1 and quantile([(1, 9), (100, 1)], 0.95) == 100
    assert mean([]) == quantile([], 0.5) == 0


def test_wilson_has_the_textbooks_values():
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-3)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("requests, failing", [(100, 0.02), (100, 0.5), (1000, 0.1), (50, 0.3), (400, 0.9)])
def test_the_interval_holds_the_truth_where_a_tenth_of_the_good_ones_is_kept(requests, failing):
    """500 draws: the true share lies outside in fewer than 5 %."""
    chance, missed = random.Random(requests), 0
    for _ in range(500):
        failures = sum(chance.random() < failing for _ in range(requests))
        kept = sum(chance.random() < 0.1 for _ in range(requests - failures))
        low, high = successes([10] * kept, 10, failures)
        missed += not low <= 1 - failing <= high
    assert missed < 25


def test_words():
    assert [percent(share) for share in (0, 0.004, 0.05, 0.0525, 0.152, 1)] == [
        "0 %",
        "0.4 %",
        "5 %",
        "5.2 %",
        "15 %",
        "100 %",
    ]
    assert [ms(value) for value in (0, 0.3, 4.56, 412.4, 12_340)] == ["0 ms", "0.3 ms", "4.6 ms", "412 ms", "12.3 s"]
