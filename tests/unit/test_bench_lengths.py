"""Memory by service and by model: single processes, their sum, and nothing measured that has failed."""

import os
import random
from types import SimpleNamespace

import psutil
import pytest

from bench import lengths, lengths_served
from bench.measuring.outcome import made
from engines.embedded.stages import _noise
from speech.errors import InternalError


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


def test_a_model_that_fails_is_not_measured():
    with pytest.raises(InternalError, match="no voice"):
        made(InternalError("no voice"))
    assert made("a sound") == "a sound"


def test_the_mels_hold_all_that_the_vocoder_reads():
    arrays = lengths._mel(random.Random(0)).arrays
    assert {name: array.dtype for name, array in arrays.items()} == {
        name: array.dtype for name, array in _noise(10).arrays.items()
    }
