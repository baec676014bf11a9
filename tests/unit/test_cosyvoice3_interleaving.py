"""Rows whose text is still coming: laid out as trained, the same alone and in a batch, however the text is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines.cosyvoice3 import speech_lm
from engines.cosyvoice3.decoder import Decoder, Job
from engines.cosyvoice3.interleaving import Live, turns, wanted
from engines.cosyvoice3.sampling import Sampler
from tests.helpers.cosyvoice3 import tiny_checkpoint  # noqa: F401
from tests.helpers.recording import replaying


@pytest.fixture(scope="module")
def lm(tiny):
    return speech_lm.load(tiny)


@pytest.fixture(scope="module")
def settings(tiny):
    return tiny.numbers.llm.sampling


#: tokens of prefix, transcript, text and clip, and the most tokens
SHAPES = [(3, 0, 17, 0, 80), (4, 11, 28, 50, 120), (3, 0, 3, 0, 20), (3, 6, 40, 15, 160), (2, 9, 4, 60, 30)]


def job(settings, number: int, words: int | None = None, open: bool = False, said=(), seed: int | None = None) -> Job:
    """Return the job of a shape, or of so many words of its text."""
    prefix, transcript, text, clip, most = SHAPES[number]
    dice = np.random.default_rng(number)
    ids = dice.integers(0, 500, prefix + transcript + text).tolist()
    sounds = dice.integers(0, 6561, clip).tolist()
    words = text if words is None else words
    sampler = Sampler(settings, 6561, number if seed is None else seed, least=2 * words)
    return Job(ids[: prefix + transcript + words], sounds, sampler, most, said, Live(prefix, transcript, open))


def alone(lm, settings, number: int) -> list[int]:
    decoder = Decoder(lm, rows=1, positions=512)
    row = decoder.submit(job(settings, number))
    decoder.run()
    return row.picked


def test_the_layout_is_the_one_that_the_model_was_trained_on(lm):
    words, clip = list(range(100, 114)), list(range(2000, 2020))
    first, final = turns(lm, words, clip, 400, Live(2, 3))
    sounds = lm.sound_ids(clip)
    assert first.ids == (lm.sos, 100, 101, *words[2:7], *sounds[:15], *words[7:12], *sounds[15:])
    assert (first.most, first.final) == (11, False), "ten more belong to the clip's last block, and a fill token"
    assert final.ids == (112, 113, lm.task) and final.final and final.most == 389
    whole = turns(lm, words[:12], [], 100, Live(2))
    assert [(turn.ids, turn.most) for turn in whole] == [
        ((lm.sos, *words[:7]), 16),
        (tuple(words[7:12]), 16),
        ((lm.task,), 68),
    ]


def test_a_clip_longer_than_the_text_is_laid_after_it_as_in_training(lm):
    (only,) = turns(lm, list(range(9)), list(range(40)), 100, Live(2, 1))
    sounds = lm.sound_ids(range(40))
    assert only.ids == (lm.sos, 0, 1, 2, 3, 4, 5, 6, *sounds[:15], 7, 8, lm.task, *sounds[15:])
    (lossy,) = turns(lm, list(range(9)), list(range(40)), 100, Live(2, 1), official=True)
    assert lossy.ids == only.ids[:-25], "the official code forgets them"


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_more_text_changes_no_turn_before_it_and_what_is_wanted_is_what_was_missing(lm, number):
    prefix, transcript, text, clip, _ = SHAPES[number]
    whole = job(None, number)
    laid = turns(lm, whole.text, whole.prompt_tokens, whole.most, whole.live)
    for words in range(text + 1):
        part = job(None, number, words, open=True)
        now = turns(lm, part.text, part.prompt_tokens, part.most, part.live)
        assert now == laid[: len(now)] and not any(turn.final for turn in now)
        more = wanted(len(part.text), clip, part.live)
        assert more >= 1
        if words and words + more <= text:
            reached = [
                len(turns(lm, whole.text[: prefix + transcript + words + each], whole.prompt_tokens, 99, part.live))
                for each in range(more + 1)
            ]
            assert reached[-1] > reached[0] == reached[-2], "so many, and not one less"


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_however_the_text_is_cut_the_same_is_said(lm, settings, number, greedy):
    how = None if greedy else settings
    whole = alone(lm, how, number)
    text = SHAPES[number][2]
    for cuts in ([], list(range(text)), [1, text // 2, text - 1], [text]):
        said: list[int] = []
        for end in [*cuts, None]:
            decoder = Decoder(lm, rows=1, positions=512)
            row = decoder.submit(job(how, number, end, open=end is not None, said=said))
            decoder.run()
            assert row.dry == (end is not None) and row.done
            assert row.picked[: len(said)] == said, "what was said stays"
            said = list(row.picked)
        assert said == whole
    blocks = "".join("f" if token == lm.fill_token else "." for token in whole)
    first = 15 - SHAPES[number][3] % 15
    assert blocks.split("f")[:-1] == [
        "." * (15 if index or first == 15 else first) for index in range(blocks.count("f"))
    ]


@pytest.mark.parametrize("ahead", [0, 2, 5])
@pytest.mark.parametrize("recorder", [None, replaying])
def test_rows_with_and_without_coming_text_say_in_a_batch_what_each_says_alone(lm, settings, ahead, recorder):
    ordinary = Job(list(range(40)), list(range(30)), Sampler(settings, 6561, 9, 5), 70)
    decoder = Decoder(lm, rows=1, positions=512)
    expected = [alone(lm, settings, number) for number in range(len(SHAPES))]
    usual = decoder.submit(ordinary)
    decoder.run()
    decoder = Decoder(lm, rows=4, positions=512, ahead=ahead, recorder=recorder)
    rows = []
    for number in range(len(SHAPES)):
        rows.append(decoder.submit(job(settings, number)))
        decoder.step()
        decoder.step()
    again = decoder.submit(replace(ordinary, sampler=Sampler(settings, 6561, 9, 5)))
    decoder.run()
    assert [row.picked for row in rows] == expected and again.picked == usual.picked
    assert decoder.active == decoder.waiting == 0


def test_a_row_without_text_frees_its_place_and_another_is_taken_at_any_step(lm, settings):
    decoder = Decoder(lm, rows=1, positions=512, ahead=2)
    dry = decoder.submit(job(settings, 0, 7, open=True))
    other = decoder.submit(job(settings, 3))
    while not dry.done:
        decoder.step()
    assert dry.dry and dry.picked[-1] == lm.fill_token and len(dry.picked) == 16
    decoder.run()
    assert other.picked == alone(lm, settings, 3)


def test_cancelled_between_its_turns_it_leaves_at_once_and_disturbs_nobody(lm, settings):
    for after in (1, 15, 16, 17, 33, 40):
        decoder = Decoder(lm, rows=3, positions=512, ahead=2)
        gone, stays = decoder.submit(job(settings, 3)), decoder.submit(job(settings, 1))
        for _ in range(after):
            decoder.step()
        decoder.cancel(gone)
        assert decoder.active == 1 and gone.cancelled and not gone.dry
        decoder.run()
        assert stays.picked == alone(lm, settings, 1)


def test_a_job_that_has_text_for_nothing_yet_ends_without_a_place(lm, settings):
    decoder = Decoder(lm, rows=1, positions=512)
    row = decoder.submit(job(settings, 1, 5, open=True))
    decoder.step()
    assert row.dry and not row.picked and decoder.active == 0


@pytest.mark.parametrize(
    "said", [list(range(16)), [*range(15), 6564, *range(16)], [*range(15), 6564, 5], [1, 2, 6564, 3, 6564, 4, 6564, 1]]
)
def test_tokens_that_another_text_has_said_are_refused(lm, settings, said):
    with pytest.raises(ValueError, match="belong to another text"):
        Decoder(lm, rows=1, positions=512).submit(job(settings, 0, 9, open=True, said=said))


def test_a_job_takes_no_more_positions_than_it_may(lm, settings):
    whole = job(settings, 3)
    small = whole.within(200)
    assert small.positions <= 200 < whole.positions and whole.within(10_000).most == whole.most
    decoder = Decoder(lm, rows=1, positions=200)
    row = decoder.submit(small)
    decoder.run()
    assert row.picked == alone(lm, settings, 3)[: len(row.picked)]
