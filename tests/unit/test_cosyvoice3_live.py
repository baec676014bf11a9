"""The acoustic model says a text while it comes: as it would say it at once, with others, and it holds no row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.contract import Mel, MelChunk, TextWanted, Utterance
from engines.cosyvoice3 import CosyVoice3Engine, flow, speech_lm
from engines.cosyvoice3.acoustic import CosyVoice3AcousticModel
from engines.cosyvoice3.plan import Planner
from engines.cosyvoice3.tokenizer import TextTokenizer
from speech.errors import InternalError, InvalidInput
from tests.helpers.cosyvoice3 import distance, random_voice, tiny_checkpoint  # noqa: F401

#: two parts; the tiny checkpoint's tokens are letters
TEXT = "The quick brown fox jumps over it. Then it goes home."
WORDS = TEXT.split(" ")


def model(tiny, live_clip: bool = False, **settings) -> CosyVoice3AcousticModel:
    lm = speech_lm.load(tiny)
    sampling = tiny.numbers.llm.sampling
    planner = Planner(TextTokenizer(tiny), sampling, lm.speech_tokens, live_clip=live_clip)
    return CosyVoice3AcousticModel(lm, flow.load(tiny), planner, **{"rows": 4, "positions": 3000, **settings})


@pytest.fixture(scope="module")
def acoustic(tiny):
    return model(tiny)


@pytest.fixture(scope="module")
def voice():
    return random_voice(40, seed=4)


def utterance(words: int | None = None, seed: int = 3, **more) -> Utterance:
    """Return the text up to so many words, open; or all of it, complete."""
    text = TEXT if words is None else " ".join(WORDS[:words]) + " "
    return Utterance(text, "en-US", seed=seed, live=True, open=words is not None, **more)


def given(acoustic, ticket) -> list:
    """Step until the ticket ends; returns what it gave."""
    found: list = []
    while not found or isinstance(found[-1], MelChunk) and not found[-1].last:
        found += [result for each, result in acoustic.step() if each is ticket]
    return found


def followed(acoustic, voice, cuts: list[int], seed: int = 3, **more) -> tuple[list[MelChunk], list[TextWanted]]:
    """Say the text as it comes, up to these words and then to its end; returns all chunks, and the ends between."""
    chunks, ends, said, beyond = [], [], (), None
    for words in [*cuts, None]:
        ticket = acoustic.submit(utterance(words, seed, **more), voice, True, said, beyond)
        *made, end = given(acoustic, ticket)
        if words is None:
            made.append(end)
        else:
            assert isinstance(end, TextWanted)
            ends.append(end)
            said = end.said
        assert all(beyond is None or chunk.reaches > beyond for chunk in made), "nothing is made twice"
        chunks += made
        beyond = chunks[-1].reaches if chunks else None
    return chunks, ends


def mels(chunks: list[MelChunk]) -> list[np.ndarray]:
    """Return each part's mel."""
    return [chunk.arrays["mel"] for chunk in chunks if chunk.final]


@pytest.fixture(scope="module")
def whole(acoustic, voice):
    return followed(acoustic, voice, [])[0]


@pytest.mark.parametrize("cuts", [[1, 4, 8], list(range(2, len(WORDS), 2))])
def test_a_text_that_comes_in_fragments_sounds_as_the_same_text_at_once(acoustic, voice, whole, cuts):
    chunks, ends = followed(acoustic, voice, cuts)
    assert chunks[-1].said == whole[-1].said and chunks[-1].last
    assert len(mels(whole)) > 1, "the text has more than one part"
    for one, other in zip(mels(chunks), mels(whole), strict=True):
        assert distance(one, other) < 1e-5
    for chunk in chunks:  # what was given out before the end stays
        final = mels(whole)[chunk.part]
        made = chunk.arrays["mel"]
        assert distance(made, final[:, : made.shape[1]]) < 1e-5
    assert acoustic.decoding == acoustic.waiting == 0


def test_the_first_sound_comes_of_the_first_words(acoustic, voice):
    chunks, ends = followed(acoustic, voice, [1, 2, 3, 4])
    assert ends[0] == TextWanted(((),), 5), "no word is final"
    assert ends[1].said == ((),) and ends[1].tokens == 2, "a word of three letters is"
    assert [(len(end.said[0]), end.tokens) for end in ends[2:]] == [(16, 1), (48, 5)], "of 9 tokens, and of 15"
    assert chunks[0].seconds <= 1.4 and len(chunks[0].said[0]) <= 48, "of the first three words"


@pytest.mark.parametrize("clip", [117, 250])
def test_of_a_longer_clip_a_turn_of_fifteen_tokens_can_be_heard(acoustic, clip):
    """Its beginning is left out, so that the first turn ends where the flow's attention has a border."""
    whole = random_voice(clip, seed=1)
    chunk, end = given(acoustic, acoustic.submit(utterance(3), whole, True))
    assert chunk.seconds == 0.48 and len(chunk.said[0]) == 15, "of nine text tokens, five of which were read"
    assert isinstance(end, TextWanted) and len(end.said[0]) == 16
    voice = acoustic.planner.plan(utterance(3), whole).voice
    left_out = clip - len(voice.arrays["speech_tokens"])
    assert 0 <= left_out < 25 and len(voice.arrays["prompt_mel"]) == 2 * (clip - left_out)
    assert len(acoustic.planner.plan(replace(utterance(), live=False), whole).voice.arrays["speech_tokens"]) == clip


def test_it_is_said_in_a_batch_as_alone_and_disturbs_nobody(acoustic, voice, whole):
    usual = Utterance("Hello my old friend, how are you?", "en-US", seed=8)
    (alone,) = acoustic.generate([(usual, voice)])
    tickets = [acoustic.submit(usual, voice), acoustic.submit(utterance(seed=77), voice, True)]
    for _ in range(5):
        acoustic.step()
    ticket = acoustic.submit(utterance(), voice, stream=True)
    found: dict = {each: [] for each in [*tickets, ticket]}
    while acoustic._tickets:
        for each, result in acoustic.step():
            found[each].append(result)
    assert found[ticket][-1].said == whole[-1].said
    for one, other in zip(mels(found[ticket]), mels(whole), strict=True):
        assert distance(one, other) < 1e-5
    assert distance(found[tickets[0]][0].arrays["mel"], alone.arrays["mel"]) < 1e-5


def test_out_of_text_it_holds_no_row_and_cancelled_it_frees_its_own_at_once(acoustic, voice):
    dry = acoustic.submit(utterance(5), voice, stream=True)
    assert isinstance(given(acoustic, dry)[-1], TextWanted)
    assert acoustic.decoding == acoustic.waiting == 0 and not acoustic._tickets
    under_way = acoustic.submit(utterance(), voice, stream=True)
    for _ in range(20):
        acoustic.step()
    assert acoustic.decoding == 2, "both parts"
    acoustic.cancel(under_way)
    assert acoustic.decoding == 0 and acoustic.step() == []


def test_who_goes_on_comes_before_who_has_not_begun(tiny, voice):
    narrow = model(tiny, rows=1)
    said = given(narrow, narrow.submit(utterance(4), voice, True))[-1].said
    busy = narrow.submit(utterance(seed=1), voice, True)
    narrow.step()
    waits = narrow.submit(utterance(seed=2), voice, True)
    goes_on = narrow.submit(utterance(6), voice, True, said)
    narrow.cancel(busy)
    while goes_on.joined_ns is None:
        narrow.step()
    assert waits.joined_ns is None
    assert isinstance(given(narrow, goes_on)[-1], TextWanted)
    narrow.cancel(waits)


def test_with_a_transcript_the_clip_is_mixed_in_where_that_is_asked_for(tiny, acoustic, voice):
    mixing = model(tiny, live_clip=True)
    told = {"prompt_text": "Hi."}
    assert acoustic.planner.plan(utterance(4, **told), voice).jobs[0].prompt_tokens == []
    job = mixing.planner.plan(utterance(4, **told), voice).jobs[0]
    assert len(job.prompt_tokens) == 40 and job.live.transcript == 3
    chunks, ends = followed(mixing, voice, [3, 5, 9], **told)
    assert ends[0] == TextWanted(((),), 15 - 3 - 9), "text for forty tokens of the clip comes first"
    assert len(ends[1].said[0]) == 6 + 16, "five that belong to the clip's last text, then fifteen for the next"
    assert chunks[-1].said == followed(mixing, voice, [], **told)[0][-1].said


def test_at_another_speed_it_comes_part_by_part(acoustic, voice, whole):
    chunks, _ = followed(acoustic, voice, [5, 9], speed=1.25)
    assert all(chunk.final for chunk in chunks) and len(chunks) == len(mels(whole))
    assert chunks[-1].said == whole[-1].said


def test_it_can_be_said_without_streaming_once_it_is_complete(acoustic, voice, whole):
    (mel,) = acoustic.generate([(utterance(), voice)])
    assert isinstance(mel, Mel) and mel.arrays["parts"].tolist() == [each.shape[1] for each in mels(whole)]


def test_what_may_be_open_must_be_live_and_streamed(acoustic, voice):
    assert isinstance(acoustic.submit(utterance(9), voice), InternalError)
    assert isinstance(acoustic.submit(replace(utterance(9), live=False), voice, True), InternalError)
    nothing = acoustic.submit(replace(utterance(), text=" … "), voice, True)
    assert isinstance(nothing, InvalidInput) and nothing.code == "text_not_speakable"
    assert acoustic.decoding == acoustic.waiting == 0


def test_a_text_of_any_length_fits_the_cache(tiny, voice):
    small = model(tiny, positions=200)
    ticket = small.submit(replace(utterance(), text=f"{TEXT} {TEXT}"), voice, True)
    chunks = given(small, ticket)
    assert chunks[-1].last and chunks[-1].part == 2


def test_the_engine_says_that_it_can_and_the_official_sampler_can_not(tiny):
    assert CosyVoice3Engine(model_dir=str(tiny.path)).capabilities.live_text
    assert not CosyVoice3Engine(model_dir=str(tiny.path), parity=True).capabilities.live_text


def test_in_half_precision_it_goes_on_behind_what_it_has_said(tiny, voice):
    lm = speech_lm.load(tiny, dtype=torch.bfloat16)
    planner = Planner(TextTokenizer(tiny), tiny.numbers.llm.sampling, lm.speech_tokens)
    half = CosyVoice3AcousticModel(lm, flow.load(tiny, dtype=torch.bfloat16), planner, rows=4, positions=3000)
    said = ()
    for words in (4, 6, 8):
        company = half.submit(utterance(seed=50 + words), voice, True)
        *_, end = given(half, half.submit(utterance(words), voice, True, said))
        half.cancel(company)
        assert said == () or end.said[0][: len(said[0])] == said[0] and len(end.said[0]) > len(said[0])
        said = end.said
