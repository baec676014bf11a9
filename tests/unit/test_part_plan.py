"""The parts in which the sound of a piece is made: each is played while the next one is made."""

import pytest

from deployments.ingress.part_plan import (
    FIRST_S,
    MOST_FACTOR,
    OVERHEAD_S,
    PART_FACTOR,
    RESERVE,
    SILENCE_S,
    ends_of_parts,
)


@pytest.mark.parametrize("seconds", [1.0, 2.5, 6.0, 20.0, 60.0])
@pytest.mark.parametrize("factor", [0.05, 0.3, PART_FACTOR, MOST_FACTOR])
def test_a_part_is_made_while_those_before_it_are_played(seconds, factor):
    ends = ends_of_parts(seconds, factor)
    edges = [0.0, *ends, seconds]
    first, *later = [end - start for start, end in zip(edges, edges[1:], strict=False)]
    assert first >= FIRST_S if ends else not later
    left = first
    for number, part in enumerate(later, 1):
        last = number == len(later)
        took = factor * (part - SILENCE_S * last + OVERHEAD_S)
        # The last one takes up a rest that would be no part of its own.
        assert took * (1.0 if last else RESERVE) <= left + 1e-9
        left += part - took
        assert left >= first, "what is left to play grows"


def test_the_slower_parts_are_made_the_longer_is_the_first_one_until_nothing_is_divided():
    first = [(ends_of_parts(10.0, factor) or [10.0])[0] for factor in (0.1, 0.15, 0.4, 0.45, 0.46, 2.0)]
    assert first == sorted(first) and first[:2] == [FIRST_S, FIRST_S] and FIRST_S < first[2] < first[3] < 0.7
    assert first[-2:] == [10.0, 10.0]


def test_a_short_piece_is_one_part():
    assert ends_of_parts(1.0, 0.3) == [] and ends_of_parts(1.5, 0.15) == [FIRST_S]


def test_a_long_piece_has_few_parts():
    assert len(ends_of_parts(60.0, 0.3)) <= 7
