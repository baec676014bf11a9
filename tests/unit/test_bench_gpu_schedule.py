"""The simulated schedule: its costs fit what a GPU measured, and the engine's way is better than the one before it."""

import json
from pathlib import Path

import pytest

from bench.gpu import schedule

MEASURED = Path(schedule.__file__).parents[1] / "results" / "gpu.json"


@pytest.mark.parametrize("in_flight", [1, 16])
def test_whole_requests_take_about_as_long_as_measured(in_flight):
    rows = json.loads(MEASURED.read_text())["runs"][-1]["phases"]["whole"]
    (measured,) = [row for row in rows if row["in_flight"] == in_flight]
    found = schedule.run(in_flight, stream=False, seconds=5.0)
    assert found["req_s"] == pytest.approx(measured["req_s"], rel=0.25)
    assert found["p50_ms"] == pytest.approx(measured["p50_ms"], rel=0.25)


def test_streams_begin_earlier_than_before_and_more_of_them_end_in_the_same_time():
    now, before = (schedule.run(4, stream=True, seconds=6.0, before=before) for before in (False, True))
    assert now["first_p50_ms"] < 0.85 * before["first_p50_ms"]
    assert now["req_s"] > 1.1 * before["req_s"] and now["no_gap"] == before["no_gap"] == 1.0


def test_sixteen_streams_have_no_gap():
    assert schedule.run(16, stream=True, seconds=6.0)["no_gap"] >= 0.95
