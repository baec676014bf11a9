"""Benchmarks send texts within the limits and clips that the API takes, no two alike."""

import random

import pytest

from bench.measuring import texts
from bench.served import compare
from speech import audio
from speech.limits import CLIP_SECONDS


@pytest.mark.parametrize("dialect, most", [("en-US", 200), ("zh-CN", 80), ("ja-JP", 80)])
def test_texts_are_of_many_lengths_and_never_too_long(dialect, most):
    chance = random.Random(1)
    made = [texts.text(chance, dialect) for _ in range(400)]
    lengths = {len(text) for text in made}
    assert 5 <= min(lengths) < 20 and most * 0.9 <= max(lengths) <= most
    assert len(lengths) > most / 4
    assert 100 < sum(len(text) < (most * 10) ** 0.5 for text in made) < 300, "half are below the geometric middle"
    assert len(set(made)) > 250


def test_sentences_are_the_same_for_a_seed_and_differ_within_a_run():
    def made(seed):
        chance = random.Random(seed)
        return [texts.sentence(chance) for _ in range(15)]

    assert made(0) == made(0) != made(1)
    assert len({len(one) for one in made(0)}) > 8
    assert all(14 <= len(one.split()) <= 18 and one.endswith(".") for one in made(0))


def test_clips_pass_the_checks_of_an_upload_and_differ():
    chance = random.Random(2)
    clips = [texts.clip(chance) for _ in range(8)]
    decoded = [audio.decode(one, seconds=CLIP_SECONDS) for one in clips]
    assert len(set(clips)) == 8
    assert all(CLIP_SECONDS[0] <= one.seconds <= CLIP_SECONDS[1] for one in decoded)
    assert max(one.seconds for one in decoded) - min(one.seconds for one in decoded) > 4


def test_the_ratio_compares_the_same_texts():
    served = {"request_ms": [110.0, 300.0, 90.0]}
    assert compare({"total_ms": [100.0, 200.0, 100.0]}, served) == 1.1
