"""Memory by service: single processes, and their sum without pages counted twice and without Serve's proxy."""

import os
from types import SimpleNamespace

import psutil

from bench import lengths_served


def test_the_sum_leaves_the_proxy_out():
    def process(rss, pss):
        return SimpleNamespace(memory_full_info=lambda: SimpleNamespace(rss=rss, pss=pss))

    found = lengths_served.read(
        {"tts-service": process(900e6, 700e6), "proxy": process(90e6, 80e6), "vocoder-service": process(800e6, 600e6)}
    )
    assert found["all services"] == {"rss_mb": 1700, "pss_mb": 1300}
    assert found["proxy"] == {"rss_mb": 90, "pss_mb": 80}


def test_a_real_process_has_both_figures():
    row = lengths_served.read({"this": psutil.Process(os.getpid())})["this"]
    assert row["rss_mb"] >= row["pss_mb"] > 10
