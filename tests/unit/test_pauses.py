"""Pauses in a text: where they are cut, which are refused with a remedy, and that the silence has their length."""

import asyncio
import random

import numpy as np
import pytest

from deployments.ingress.request_tags import tag_speech
from engines.contract import create
from speech import requests
from speech.errors import InvalidInput, SpeechError
from speech.joining import Joiner
from speech.pauses import LONGEST_S, MOST, MOST_S, SpokenPart, parse
from tests.unit.test_synthesis import RATE, Pipeline, ask, new_run, source, speaking
from tracing import vocabulary

P = SpokenPart


@pytest.mark.parametrize(
    "text, parts, last",
    [
        ("Wait [pause:0.5s] here.", [P("Wait", 0), P("here.", 0.5)], 0),
        ("Wait[pause:500ms]here", [P("Wait", 0), P("here", 0.5)], 0),
        ("[pause:1s]Now. [ PAUSE : 0.05S ]", [P("Now.", 1)], 0.05),
        ("一［pause：2s］二", [P("一", 0), P("二", 2)], 0),
        ("a [pause:10s][pause:10s] b", [P("a", 0), P("b", 20)], 0),
        ("Wait[pause:1s]. Go", [P("Wait.", 0), P("Go", 1)], 0),
        ("Wait [pause:1s] … [pause:1s] go", [P("Wait…", 0), P("go", 2)], 0),
        ("Oh [pause:1s][breath][pause:1s] well", [P("Oh", 0), P("[breath] well", 2)], 0),
        ("Well [pause:1s][breath]", [P("Well [breath]", 0)], 1),
        ("**Bold [pause:1s] words** [a](b)[pause:1s](c)", [P("Bold", 0), P("words a", 1), P("(c)", 1)], 0),
        ("- one\n[pause:1s]\n- two", [P("one", 0), P("two", 1)], 0),
        ("爱好[h][ào][pause:1s]read[R][EH1][D]", [P("爱好[h][ào]", 0), P("read[R][EH1][D]", 1)], 0),
        ("<strong>a</strong>[pause:1s]<strong>b</strong>", [P("<strong>a</strong>", 0), P("<strong>b</strong>", 1)], 0),
    ],
)
def test_a_text_is_cut_at_its_pauses(text, parts, last):
    found = parse(text)
    assert list(found.parts) == parts and found.last_pause_s == last
    assert found.seconds == sum(part.pause_s for part in parts) + last


@pytest.mark.parametrize("text", ["Pause here.", "The [paused] film", "[pausing: 1s]", "a [ps:1s] b", "pause:1s", ""])
def test_other_words_are_no_pauses(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    "text, code, remedy",
    [
        ("a [pause:abc] b", "pause_malformed", "[pause:0.5s]"),
        ("a [pause] b", "pause_malformed", "leave out the bracket"),
        ("a [pause:0.5] b", "pause_malformed", "[pause:500ms]"),
        ("a [pause:0,5s] b", "pause_malformed", "at character 3"),
        ("a [pause:-1s] b", "pause_malformed", "[pause:0.5s]"),
        ("a [pause:١s] b", "pause_malformed", "[pause:0.5s]"),
        ("a [pause 1s] [pause1s] b", "pause_malformed", "[pause:0.5s]"),
        ("a [pause:1s and on", "pause_malformed", "[pause:0.5s]"),
        ("a [pause:1s [pause:1s]", "pause_malformed", "[pause:0.5s]"),
        ("a [pause:0s] b", "pause_out_of_range", "0.05 to 10 s"),
        ("a [pause:49ms] b", "pause_out_of_range", "0.05 to 10 s"),
        ("a [pause:10.1s] b", "pause_out_of_range", "several in a row"),
        ("a [pause:999999s] b", "pause_out_of_range", "0.05 to 10 s"),
        ("a " + "[pause:10s]" * 7, "pauses_too_long", "60 s"),
        ("a " + "[pause:0.1s]b " * (MOST + 1), "pauses_too_many", str(MOST)),
        ("[pause:1s]", "pause_alone", "at least one word"),
        ("… [pause:1s] [breath] [pause:1s] !", "pause_alone", "at least one word"),
        ("<strong>a [pause:1s] b</strong>", "pause_in_tag", "Close the tag"),
        ("Use [this]([pause:1s]) now.", "pause_in_markup", "at character 12 "),
        ("Hm [pause:1s] see [the page](https://a.b/[pause:1s]x) now.", "pause_in_markup", "at character 42 "),
        ("[laughter]([pause:1s]) Ha", "pause_in_markup", "link's address"),
        ("See:\n```python [pause:1s]\nprint\n```", "pause_in_markup", "before or behind"),
    ],
)
def test_a_pause_that_can_not_be_is_refused_with_a_remedy(text, code, remedy):
    with pytest.raises(InvalidInput, match="pause") as caught:
        requests.parse({"text": text, "dialect": "en-US", "long_form": "true"})
    assert (caught.value.code, caught.value.param) == (code, "text") and remedy in caught.value.message


def test_any_mixture_of_markup_is_taken_with_all_its_pauses_or_refused():
    atoms = (
        "Hello world 你好 a 1/3 $5 [pause:1s] [pause:50ms] ［pause：1s］ [pause] [pause:1s [R][EH1][D] [h][ào] "
        "[laughter] <strong> </strong> [ ] ( ) [x]( ]( ![a](b) [t](< https://a.b/ <https://a.b/ > ``` ~~~ ~~~~ ` ** * "
        "_ __ ~~ == *** --- | |---|---| \\ [^1] [1] . 。 ! … , \" ' a@b.c = +"
    ).split(" ") + [" ", "\n", "\n\n", "- ", "# ", "> ", "1. ", "[x] ", "| a | b |"]
    chosen = random.Random(0)
    taken = 0
    for _ in range(3000):
        text = "".join(chosen.choices(atoms, k=chosen.randint(1, 20)))
        dialect = chosen.choice(["en-US", "zh-CN"])
        try:
            request = requests.parse({"text": text, "dialect": dialect, "long_form": chosen.choice(["true", "false"])})
        except SpeechError as error:
            assert error.code and error.message, text
            continue
        for early in (True, False):
            utterances, found = request.paced_pieces(early)
            asked = request.paced.seconds if request.paced else 0.0
            assert utterances and found.before_s + sum(found.after_s.values()) == pytest.approx(asked), text
        taken += 1
    assert taken > 1000


def test_the_longest_pauses_that_are_allowed_are_allowed():
    text = "a " + f"[pause:{LONGEST_S:g}s]" * int(MOST_S / LONGEST_S)
    assert parse(text).last_pause_s == MOST_S


def test_pauses_are_no_part_of_the_text_that_is_checked_and_traced():
    request = ask("一二三 [pause:0.5s] 四五六[pause:250ms]", dialect="zh-CN")
    assert request.utterance.text == "一二三 四五六"
    run = new_run()
    tag_speech(run, request)
    tags = run.finish(200)[0].tags
    assert tags[vocabulary.TEXT_SCRIPT] == "han", "the letters of a pause are no letters of the text"
    assert tags[vocabulary.TEXT_LENGTH] == 7 and tags[vocabulary.TEXT_PAUSE_S] == 0.75
    plain = new_run()
    tag_speech(plain, ask("Hello"))
    assert vocabulary.TEXT_PAUSE_S not in plain.finish(200)[0].tags


@pytest.mark.parametrize("engine", ["embedded", "cosyvoice3"])
def test_the_engines_never_see_a_pause(engine, tmp_path):
    request = ask("Take a breath [pause:1s] and go on.")
    if engine == "embedded":
        create(engine).check(request.utterance)
    else:
        from engines.cosyvoice3 import text

        text.check(request.utterance.text)
    assert [one.text for one in request.pieces(early=False)] == ["Take a breath", "and go on."]


def silences(samples: np.ndarray) -> list[float]:
    """The seconds of each silence of more than 20 ms, to 1 ms: the last of a fade is silent in 16 bits."""
    quiet = np.concatenate([[False], samples == 0, [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(int)))
    return [round((end - start) / RATE, 3) for start, end in edges.reshape(-1, 2) if end - start > RATE // 50]


LONG = "Here is one sentence. And here is another one."


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "text, long, expected, pieces",
    [
        ("One [pause:0.5s] two", False, [0.5], 2),
        ("One [pause:50ms] two", False, [0.05], 2),
        ("[pause:1s] One [pause:3s] two [pause:0.25s]", False, [1, 3, 0.25], 2),
        ("[pause:1s] One", False, [1], 1),
        ("One [pause:2s]", False, [2], 1),
        ("One. [pause:10ms0] two".replace("10ms0", "100ms"), True, [0.1], 2),
        (f"{LONG} [pause:1.5s] {LONG}", True, [1.5], None),
    ],
)
def test_the_silence_is_as_long_as_the_text_says(streaming, text, long, expected, pieces):
    fields = {"long_form": "true"} if long else {}
    pipeline, run = Pipeline(), new_run()
    synthesizer = speaking(pipeline, streaming=streaming)
    request = ask(text, **fields)

    async def streamed():
        return np.concatenate([part.samples async for part in synthesizer.stream(request, source, run)])

    for samples in (asyncio.run(synthesizer.synthesize(request, source, new_run())).samples, asyncio.run(streamed())):
        # The tones of the pipeline have sound right at their edges, so all silence is the joiner's.
        asked = [seconds for seconds in silences(samples) if seconds in expected]
        assert asked == expected, silences(samples)
    assert all("pause" not in said for said in pipeline.said)
    if pieces:
        assert len(set(pipeline.said)) == pieces


def test_a_lead_and_a_last_pause_are_exact_around_a_pieces_own_silence():
    edge, sound = np.zeros(round(0.03 * RATE), np.float32), np.full(RATE // 2, 0.5, np.float32)
    joiner = Joiner(RATE, lead_s=1.0)
    out = np.concatenate([joiner.add(np.concatenate([edge, sound, edge]), 2.0), joiner.finish(pause=True)])
    loud = np.flatnonzero(out)
    assert loud[0] == RATE and len(out) - 1 - loud[-1] == 2 * RATE
