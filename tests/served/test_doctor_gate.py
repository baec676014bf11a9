"""The doctor before the real gate: nginx, keys and a real Zipkin behind it."""

from __future__ import annotations

import httpx
import pytest

from cluster.cli_error import CliError
from cluster.doctor.window import Window
from cluster.doctor.zipkin_reader import ZipkinReader
from cluster.gate.configuration import MOST_TRACES
from tests.helpers.doctoring import BEGIN, LENGTH, many
from tests.helpers.gating import wait_until

WINDOW = Window(BEGIN, BEGIN + LENGTH)  # long ago: no other test looks there
COUNT = MOST_TRACES + 50


@pytest.fixture(scope="module")
def gate(start_gate):
    place = start_gate()
    httpx.post(
        f"{place.zipkin}/api/v2/spans",
        json=[span for trace in many(COUNT) for span in trace],
        timeout=30,
        trust_env=False,
    ).raise_for_status()
    wait_until(lambda: len(ZipkinReader(place.zipkin).read(WINDOW).traces) == COUNT, within_s=15)
    return place


def test_with_a_key_it_reads_all_in_the_gates_pages(gate):
    read = ZipkinReader(gate.gate.own_url, key=gate.all).read(WINDOW)
    assert len(read.traces) == COUNT and sum(len(trace.spans) for trace in read.traces) == 5 * COUNT
    assert read.cut_at is None and not read.orphans and not read.skipped


@pytest.mark.parametrize("role, says", [("services", "no tags"), ("nothing", "403"), (None, "401")])
def test_without_a_key_that_sees_tags_it_says_which_is_needed(gate, role, says):
    key = getattr(gate, role) if role else None
    with pytest.raises(CliError, match=says) as caught:
        ZipkinReader(gate.gate.own_url, key=key).read(WINDOW)
    assert "view-traces" in str(caught.value) and "COSYGRAPH_KEY" in str(caught.value)
    assert key is None or key not in str(caught.value)
