"""When a request arrived at Serve's proxy, as the ingress reckons it on its own clock."""

import pickle
import sys

import pytest

from deployments.ingress import arrival
from deployments.ingress.arrival import ENOUGH, SAMPLES, Arrival, ProxyClocks

HERE, THERE = "node-a", "node-b"
NOW, MS, S = 1_900_000_000 * 10**9, 10**6, 10**9


def waited_ms(clocks, node, taken_ms, known_s=0.0):
    """Return what a request is taken to have waited for that took `taken_ms` by both clocks."""
    return (NOW - clocks.started_ns(Arrival(node, NOW - taken_ms * MS, known_s), NOW)) / MS


@pytest.fixture
def clocks():
    return ProxyClocks(HERE, deadline_s=60)


def test_on_its_own_node_it_is_exact(clocks):
    assert [waited_ms(clocks, HERE, ms) for ms in (0, 3, 5500, 70_000)] == [0, 3, 5500, 70_000]
    assert waited_ms(clocks, HERE, -40) == 0, "a clock that was set back makes no arrival in the future"
    assert waited_ms(clocks, HERE, 1400, known_s=1.5) == 1500


def test_another_nodes_clock_is_believed_until_it_is_known(clocks):
    """A new replica's first requests are those that waited for it."""
    assert [waited_ms(clocks, THERE, 5000 + n) for n in range(ENOUGH)] == [5000 + n for n in range(ENOUGH)]


@pytest.mark.parametrize("ahead_ms", [-3000, 3000])
def test_another_time_is_no_wait_once_it_is_known(clocks, ahead_ms):
    for n in range(ENOUGH):
        waited_ms(clocks, THERE, 4 + n - ahead_ms)
    assert waited_ms(clocks, THERE, 4 - ahead_ms) == 0
    assert waited_ms(clocks, THERE, 2004 - ahead_ms) == 2000


def test_a_clock_that_is_set_right_is_believed_after_some_requests(clocks):
    for _ in range(ENOUGH):
        waited_ms(clocks, THERE, 4 - 3000)
    late = [waited_ms(clocks, THERE, 4) for _ in range(SAMPLES)]
    assert late[0] == 3000 and waited_ms(clocks, THERE, 4) == 0


@pytest.mark.parametrize("taken_ms", [-70_000, -1, 61_000])
def test_what_no_proxy_would_wait_for_is_a_clock(clocks, taken_ms):
    assert waited_ms(clocks, THERE, taken_ms) == 0
    assert waited_ms(clocks, THERE, taken_ms, known_s=1.5) == 1500, "the proxy itself has measured that"


def test_it_travels_in_the_scope_as_plain_values(monkeypatch):
    scope = arrival.put({"type": "http"}, Arrival(HERE, NOW, 1.5))
    pickled = pickle.dumps(scope)
    monkeypatch.delitem(sys.modules, arrival.__name__)
    assert b"deployments" not in pickled, "another application may lack our modules"
    assert arrival.of(pickle.loads(pickled)) == Arrival(HERE, NOW, 1.5)
    assert arrival.of({"type": "http"}) is None
