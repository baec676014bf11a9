"""Text that is still coming, against what the official `inference_bistream` said of it on the golden checkpoint.

`python -m bench.cosyvoice3_bistream` ran the official code and wrote the file.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.cosyvoice3_bistream import CASES, MOST, inputs
from engines.cosyvoice3 import speech_lm
from engines.cosyvoice3.decoder import Decoder, Job
from engines.cosyvoice3.interleaving import Live
from engines.cosyvoice3.sampling import Sampler
from tests.helpers.cosyvoice3 import golden_directory

END_OF_PROMPT = 151_646
FILE = Path(__file__).parent / "recordings" / "cosyvoice3_bistream.json"
OFFICIAL = json.loads(FILE.read_text())


class Kept(Sampler):
    """The official sampler, kept from one job of an utterance to the next, which may pick few of the control tokens.

    The official code's own draws can't be taken up in the middle; its generator just goes on.
    """

    def __init__(self, lm, settings, seed: int | None) -> None:
        super().__init__(None if seed is None else settings, lm.speech_tokens, seed or 0, parity=True)
        self._fill, self._eos = lm.fill_token, lm.speech_tokens + 1

    def resume(self, said) -> None:
        assert self.picked == list(said)

    def pick(self, log_probabilities: np.ndarray, ends: bool = True) -> int:
        kept = self._eos if ends else self._fill
        value = log_probabilities[kept]
        log_probabilities[self._speech_tokens :] = -np.inf
        log_probabilities[kept] = value
        self.picked.append(self._pick(log_probabilities))
        return self.picked[-1]


@pytest.fixture(scope="module")
def directory():
    torch.set_num_threads(1)
    return golden_directory()


@pytest.fixture(scope="module")
def lm(directory):
    return speech_lm.load(directory)


@pytest.fixture
def eager(lm, request):
    """Make the fill token as likely as the case wants it."""
    weight = lm.llm_decoder.weight.data[lm.fill_token].clone()
    lm.llm_decoder.weight.data[lm.fill_token] *= CASES[request.getfixturevalue("name")][-1]
    yield
    lm.llm_decoder.weight.data[lm.fill_token] = weight


def job(lm, name: str, sampler: Sampler, words: int, open: bool) -> Job:
    ids, clip, (prefix, transcript, _) = inputs(name, 150_000, lm.speech_tokens, END_OF_PROMPT)
    text = ids[: prefix + transcript + words]
    return Job(text, clip, sampler, 400, list(sampler.picked), Live(prefix, transcript, open))


def spoken(lm, directory, name: str, cuts: list[int]) -> list[list[int]]:
    """Say a case's text in fragments that end after so many of its tokens; returns the speech tokens after each."""
    *_, words, _, seed, _ = CASES[name]
    sampler, found = Kept(lm, directory.numbers.llm.sampling, seed), []
    for end in [*cuts, words]:
        decoder = Decoder(lm, rows=2, positions=700)
        row = decoder.submit(job(lm, name, sampler, end, open=len(found) < len(cuts)))
        while not row.done and sum(token < lm.speech_tokens for token in row.picked) < MOST:
            decoder.step()
        decoder.cancel(row)
        found.append([token for token in row.picked if token < lm.speech_tokens])
    return found


def cuttings(words: int) -> list[list[int]]:
    dice = np.random.default_rng(words)
    return [[], list(range(words)), [words // 2], sorted(dice.choice(words, min(4, words - 1), False).tolist())]


@pytest.mark.parametrize("cutting", range(4))
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("eager")
def test_however_the_text_is_cut_the_official_tokens_are_said(lm, directory, name, cutting):
    words = CASES[name][2]
    cuts = cuttings(words)[cutting]
    found = spoken(lm, directory, name, cuts)
    tokens, taken = OFFICIAL[name]["tokens"], OFFICIAL[name]["taken"]
    assert found[-1] == tokens
    for end, said in zip(cuts, found[:-1], strict=True):
        assert len(said) == sum(each <= end for each in taken), "with so much text it says no less and no more"


def test_the_cases_show_what_they_are_for():
    blocks = {name: [len(list(group)) for _, group in groupby(case["taken"])] for name, case in OFFICIAL.items()}
    assert blocks["no clip"][:3] == [15, 15, 15] and blocks["zero-shot"][0] == 7, "fill tokens that were due"
    assert any(size < 15 for size in blocks["eager, no clip"][:-1]), "fill tokens that the model picked itself"
    assert OFFICIAL["no clip"]["taken"][0] == 1, "the official code speaks before it has read five text tokens"
    assert set(OFFICIAL["zero-shot, text ends before the clip"]["taken"]) == {6}, "all of it after the text's end"
