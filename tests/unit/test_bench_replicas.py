"""The measurement behind "how many replicas for how many requests a second": its search, its device, its figure."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from bench import replicas
from bench.measuring import plot
from engines.simulated import Options, batch_ms

SVG = "{http://www.w3.org/2000/svg}"


class Server:
    """Takes `calm_s`, and beyond `most_per_s` far longer."""

    def __init__(self, most_per_s: float, calm_s: float = 1.0) -> None:
        self.most_per_s, self.calm_s = most_per_s, calm_s
        self.asked: list[float] = []

    def __call__(self, per_s: float) -> dict:
        self.asked.append(per_s)
        return {"offered_per_s": per_s, "p99_s": self.calm_s if per_s <= self.most_per_s else 9.0}


def test_rates_are_raised_until_one_is_too_slow_and_then_halved_back():
    server = Server(8.2)
    rows = replicas.highest_within(3.0, 10.0, server)
    assert server.asked == pytest.approx([5.0, 7.0, 8.0, 9.0, 8.5])
    assert [row["offered_per_s"] for row in rows] == sorted(server.asked)
    assert replicas.within(rows, 3.0) == 8.0


def test_a_rate_between_the_last_two_may_be_the_highest():
    assert replicas.within(replicas.highest_within(3.0, 10.0, Server(8.7)), 3.0) == pytest.approx(8.5)


def test_without_a_rate_within_the_bound_there_is_none():
    server = Server(0.0)
    assert replicas.within(replicas.highest_within(3.0, 10.0, server), 3.0) == 0.0
    assert server.asked == pytest.approx([5.0, 2.5])


def test_a_lucky_rate_beyond_a_slow_one_does_not_count():
    rows = [{"offered_per_s": rate, "p99_s": p99} for rate, p99 in ((1, 1.0), (2, 4.0), (3, 2.0))]
    assert replicas.within(rows, 3.0) == 1


def test_all_rates_within_the_bound_need_no_search():
    server = Server(99.0)
    replicas.highest_within(3.0, 10.0, server)
    assert len(server.asked) == len(replicas.SHARES)


def test_a_batch_takes_what_its_longest_member_does_and_a_share_of_the_others():
    options = Options(generate_ms=100, character_ms=4, batch_slope=0.2)
    times = [options.generating_ms(text) for text in ("a" * 10, "a" * 100)]
    assert times == [140, 500]
    assert batch_ms(times, options.batch_slope) == 500 + 0.2 * 140
    assert batch_ms([50] * 4, 0.25) == 50 * (1 + 0.25 * 3), "of equal members, as before there were lengths"


def test_the_devices_rate_is_that_of_full_batches():
    engine = {"generate_ms": 100, "character_ms": 0, "batch_slope": 0.2}
    assert replicas.device_rate(["any", "texts at all"], engine, batch=8) == pytest.approx(8 / (0.1 * (1 + 0.2 * 7)))


def test_the_other_services_follow():
    assert [replicas.followers(count) for count in (1, 4, 5, 8)] == [1, 1, 2, 2]


def rows() -> dict[int, dict]:
    made = {}
    for number, closed, within, cores in ((1, 6.0, 5.0, 0.5), (2, 12.0, 10.0, 0.9), (4, 20.0, 12.0, 2.0)):
        made[number] = {
            "replicas": {"tts-service": number, "vocoder-service": 1},
            "device_per_s": 7.0,
            "closed": {"req_per_s": closed, "cpu_ms": 40.0, "busy_cores": cores},
            "open": [{"offered_per_s": within, "p99_s": 2.0}, {"offered_per_s": within + 1, "p99_s": 40.0}],
            "within_bound_per_s": within,
        }
    return made


def test_the_table_says_where_the_line_bends():
    lines = replicas.table(rows()).splitlines()
    assert lines[2] == "| 1 | 1 | 6.0 | 86% | 5.0 | 71% | 40 | 0.50 |"
    assert lines[4] == "| 4 | 1 | 20.0 | 71% | 12.0 | 43% | 40 | 2.00 |"


def test_the_figure_has_every_point_and_says_its_figures_in_words():
    root = ElementTree.fromstring(replicas.figure(rows(), cores=2))
    assert "1: 5.0, 2: 10.0, 4: 12.0" in root.findtext(f"{SVG}title", "")
    marks = root.findall(f".//{SVG}circle")
    assert len(marks) == 3 + 3 + 3 * 2
    words = [text.text for text in root.findall(f".//{SVG}text")]
    assert {"replicas of tts-service", "P99, s", "1 replica", "4 replicas", "what 2 cores could do"} <= set(words)


def test_a_point_is_drawn_where_its_axes_say():
    line = plot.Line("a", [(0, 0), (10, 5)], "#000")
    panel = plot.Panel("", "x", "y", [line], x_ticks=[0, 10])
    first, last = ElementTree.fromstring(plot.svg("", [panel])).findall(f".//{SVG}circle")
    assert float(first.get("cx", "")) == plot.LEFT and float(first.get("cy", "")) == plot.HEIGHT - plot.BOTTOM
    assert float(last.get("cx", "")) == pytest.approx(plot.LEFT + (plot.WIDTH - plot.LEFT - plot.RIGHT) / 1.03, abs=0.1)
    assert float(last.get("cy", "")) == plot.TOP


@pytest.mark.parametrize("most", [0.7, 1, 23, 55, 99.9, 1234])
def test_ticks_are_few_and_reach_the_highest_value(most):
    found = plot.ticks(most)
    assert found[0] == 0 and found[-1] >= most * 0.999 and 4 <= len(found) <= 9


def test_names_are_escaped():
    assert "a &lt; b" in plot.svg("a < b", [])
