"""A file of results tells how much of the machine others had."""

from __future__ import annotations

from bench.measuring import records


def test_the_share_of_stolen_time_is_told(monkeypatch):
    monkeypatch.setattr(records, "_BEGAN", (10, 100))
    monkeypatch.setattr(records, "_processors", lambda: (40, 300))
    assert records.about()["cpu_stolen"] == 0.15


def test_it_is_left_out_where_no_kernel_tells_it(monkeypatch):
    monkeypatch.setattr(records, "_BEGAN", (0, 0))
    monkeypatch.setattr(records, "_processors", lambda: (0, 0))
    assert "cpu_stolen" not in records.about()


def test_this_kernel_counts_upwards():
    stolen, wanted = records._processors()
    assert 0 <= stolen <= wanted
    assert records._processors() >= (stolen, wanted)
