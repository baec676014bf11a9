"""The incidents of `bench/incidents.py`, shortened: two kinds of bad callers at once, then batches of one, before and
after the doctor's change. A graph, a Zipkin and a Prometheus of their own. About three minutes."""

from __future__ import annotations

import pytest

from bench import incidents
from bench.callers import Kind
from bench.incidents import IMPROVES_BY, PER_S, SIMULATED, Incidents
from bench.watched_graph import watched_graph
from cluster import monitoring
from cluster.problem import Problem

pytestmark = pytest.mark.proof

MIX = {Kind("shop"): 0.35, Kind("shop", "empty"): 0.02, Kind("radio"): 0.1, Kind("radio", "forgotten"): 0.15,
       Kind("school", "forgotten"): 0.23, Kind("phone", "narrow"): 0.15}


@pytest.fixture(scope="module")
def found():
    """Half of the traces are kept: a shorter run has too few at a tenth for every caller to be among them."""
    try:
        monitoring.check()
    except Problem as missing:
        pytest.skip(str(missing))
    with watched_graph(SIMULATED, ratio=0.5) as graph:
        yield Incidents(graph)


def test_bad_callers_are_named_whose_fault_it_is_and_how_often(found):
    episode = found.episode(MIX, PER_S, 20, seed=5)
    found.meet(episode.answers)
    assert not episode.wrong
    assert not found.names_narrow_recordings(episode.report, found.sent), episode.report.lines
    assert not found.names_forgotten_dialects(episode.report, found.sent), episode.report.lines


def test_batches_of_one_are_found_and_the_doctors_change_makes_answers_quick(found):
    before = found.no_batches(20)
    assert not before.wrong, before.report.lines
    after = found.as_the_doctor_says(before)
    assert not after.wrong, after.report.lines
    slow, quick = (episode.figures()["p95_ms"] for episode in (before, after))
    assert quick < (1 - IMPROVES_BY) * slow, (slow, quick)


def test_a_report_that_says_nothing_of_it_is_told_from_one_that_does(found):
    """So that the checks above can fail."""
    silent = incidents.Report({"findings": []})
    assert len(found.names_narrow_recordings(silent, found.sent)) == 1
    assert len(found.names_forgotten_dialects(silent, found.sent)) == 2
