"""The bench of the CosyVoice3 engine: requests of a fixed length, every part, rows that are measured anew."""

import json

import pytest
import torch

from bench import cosyvoice3, results
from bench.cosyvoice3_work import PARTS, Networks, Size
from tests.helpers.cosyvoice3 import tiny_checkpoint  # noqa: F401


@pytest.fixture(scope="module")
def networks(tiny):
    return Networks(tiny, "cpu", torch.float32)


def test_a_request_says_as_many_tokens_as_it_is_told(networks):
    size = Size(tokens=70, prompt=10)
    decoder = networks.decoder(size, rows=3)
    rows = [decoder.submit(networks.job(size, seed)) for seed in range(3)]
    decoder.run()
    for row in rows:
        assert len(row.job.sampler.picked) == row.steps == 70
        assert max(row.job.sampler.picked) < networks.lm.speech_tokens
    assert rows[0].job.sampler.picked != rows[1].job.sampler.picked


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_measured(networks, part):
    figures = PARTS[part](networks, Size(tokens=30, prompt=10), 2)
    assert figures and all(value > 0 for value in figures.values()), figures


def test_rows_that_are_measured_anew_replace_the_old_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    shared = dict.fromkeys(("code", "part", "device", "dtype", "threads", "tokens", "prompt_tokens", "sizes"), "same")
    old = [shared | {"in_flight": count, "rtf": 1.0} for count in (1, 8)]
    (tmp_path / "cosyvoice3.json").write_text(json.dumps({"rows": old}))
    new = shared | {"in_flight": 8, "rtf": 0.5}
    assert cosyvoice3.kept([new]) == [old[0], new]
