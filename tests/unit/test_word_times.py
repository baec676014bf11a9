"""Words with their times: what was written, mapped back from what is spoken, and the engine's own durations."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest

from engines.contract import Mel, TimedVocoder, Utterance, Voice, create
from engines.embedded.text import load
from engines.embedded.text.timing import timings
from speech.aligned_text import AlignedText
from speech.requests import parse
from speech.word_edges import heard_in
from speech.words import Timings, Word, part_of

VOICE = Voice(
    {
        "style_offset": np.zeros(256, np.float32),
        "log_f0": np.array([math.log(150)], np.float32),
        "dvector": np.zeros(256, np.float32),
    }
)
#: what is written, and its words
ENGLISH = {
    "Dr. Smith paid $5.50 on March 3, 2024.": "Dr.|Smith|paid|$5.50|on|March|3|2024",
    "At 5:30 pm, i.e. 1/3 of 10-20 km, etc.": "At|5:30 pm|i.e.|1/3|of|10-20|km|etc",
    "It cost $1.2 billion (or so) — don't ask.": "It|cost|$1.2|billion|or|so|don't|ask",
    'A well-known word—another, "quoted" one.': "A|well-known|word|another|quoted|one",
    "Call +44 20 7946 0958 or mary.jones@example.com.": "Call|+44 20 7946 0958|or|mary.jones@example.com",
    "See https://example.com/a?b=1 now.": "See|https://example.com/a?b=1|now",
    "# Title\n\n* **bold words here** and [link text](http://x.y/z)": "Title|bold|words|here|and|link|text",
    "I read[R][EH1][D] it, [R][EH1][D].": "I|read|it|[R][EH1][D]",
    "It is -5°C or 23°F in World War II.": "It|is|-5°C|or|23°F|in|World|War|II",
    "Henry VIII, No. 5, #3 and v2.1.3": "Henry|VIII|No.|5|#3|and|v2.1.3",
    "Mr. O'Neil's café costs €20–€30, 50% off!": "Mr.|O'Neil's|café|costs|€20–€30|50%|off",
    "AT&T and NASA's U.S. office, 5km away": "AT&T|and|NASA's|U.S.|office|5km|away",
    "The 3rd of the 1990s, and/or 12,800 more": "The|3rd|of|the|1990s|and/or|12,800|more",
    "He said 你好 to her.": "He|said|你好|to|her",
    "e\u0301te\u0301 ﬁne": "e\u0301te\u0301|ﬁne",
}
MANDARIN = {
    "付款日期是2026/11/28。": ("付款|日期|是|2026/11/28", "付|款|日|期|是|2026/11/28"),
    "中奖的概率是1/3，-5℃。": ("中奖|的|概率|是|1/3|-5℃", "中|奖|的|概|率|是|1/3|-5℃"),
    "我用Python写GPT-4模型。": ("我|用|Python|写|GPT-4|模型", "我|用|Python|写|GPT-4|模|型"),
    "爱好[h][ào]很多，9:00-18:00营业": ("爱好|很多|9:00-18:00|营业", "爱|好|很|多|9:00-18:00|营|业"),
    "**重要**：请拨打400-820-8820！": ("重要|请|拨打|400-820-8820", "重|要|请|拨|打|400-820-8820"),
    "价格￥1,299，增长１２％": ("价格|￥1,299|增长|１２％", "价|格|￥1,299|增|长|１２％"),
}
JAPANESE = {
    "当たる確率は1/3。": "当たる|確率|は|1/3",
    "気温は-5℃です。": "気温|は|-5℃|です",
    "りんごを3本とPythonを500円で買いました。": "りんご|を|3|本|と|Python|を|500|円|で|買い|ました",
    "彼女は「ありがとう」と言った。": "彼女|は|ありがとう|と|言った",
    "ｶﾞﾗｽと１０人": "ｶﾞﾗｽ|と|１０|人",
}


@pytest.fixture(scope="module")
def front_end():
    return load()


def heard(front_end, text: str, language: str, dialect: str, granularity: str = "word") -> tuple[Word, ...]:
    """Return the words, where every phoneme lasts a second."""
    phonemes = front_end.phonemes(text, language, dialect)
    ends = np.arange(len(phonemes) + 1.0)
    return timings(phonemes, np.stack([ends[:-1], ends[1:]], 1), text).heard(granularity, text, text)


def check(words: tuple[Word, ...], text: str, expected: str) -> None:
    assert "|".join(word.text for word in words) == expected
    for word in words:
        assert text[word.start : word.end] == word.text and word.start_s < word.end_s
    for before, after in zip(words, words[1:], strict=False):
        assert before.end <= after.start and before.end_s <= after.start_s


@pytest.mark.parametrize("text, expected", ENGLISH.items())
def test_english_words_are_those_that_were_written(front_end, text, expected):
    for dialect in ("en-US", "en-GB"):
        check(heard(front_end, text, "en", dialect), text, expected)


@pytest.mark.parametrize("text, expected", MANDARIN.items())
def test_mandarin_by_word_and_by_character(front_end, text, expected):
    check(heard(front_end, text, "zh", "zh-CN"), text, expected[0])
    check(heard(front_end, text, "zh", "zh-CN", "character"), text, expected[1])


@pytest.mark.parametrize("text, expected", JAPANESE.items())
def test_japanese_by_the_words_of_its_front_end(front_end, text, expected):
    check(heard(front_end, text, "ja", "ja-JP"), text, expected)


def test_phonemes_have_their_stress_length_and_tone(front_end):
    def symbols(text: str, language: str, dialect: str) -> list[str]:
        words = heard(front_end, text, language, dialect, "phoneme")
        for word in words:
            assert (word.phonemes[0].start_s, word.phonemes[-1].end_s) == (word.start_s, word.end_s)
        return [" ".join(sound.symbol for sound in word.phonemes) for word in words]

    assert symbols("read it", "en", "en-GB") == ["ɹ ˈiː d", "ɪ t"]
    assert symbols("很好", "zh", "zh-CN") == ["x ə↗ n x a u↓"] or symbols("很好", "zh", "zh-CN") == ["x ə↗ n", "x a u↓"]


def test_every_letter_of_two_hundred_sentences_has_a_word(front_end):
    """Nothing that is read is lost or out of order, in all sentences of the rules' own tests; links' targets aren't."""
    from tests.unit.test_texts import rows

    lost = []
    for name, language, dialect in (("en", "en", "en-US"), ("zh", "zh", "zh-CN"), ("ja", "ja", "ja-JP")):
        for text, _ in rows(name):
            words = heard(front_end, text, language, dialect)
            check(words, text, "|".join(word.text for word in words))
            covered = {at for word in words for at in range(word.start, word.end)}
            unread = {at for match in re.finditer(r"\]\(\S+?\)|\[x\]|\(cat", text) for at in range(*match.span())}
            missed = "".join(
                char for at, char in enumerate(text) if char.isalnum() and at not in covered and at not in unread
            )
            lost += [(text, missed)] if missed else []
    assert not lost, lost


@pytest.fixture(scope="module")
def engine():
    return create("embedded")


@pytest.fixture(scope="module")
def acoustic(engine):
    return engine.load_acoustic_model(threads=1)


@pytest.fixture(scope="module")
def vocoder(engine):
    return engine.load_vocoder(threads=1)


def generate(acoustic, *jobs: Utterance) -> list[Mel]:
    return acoustic.generate([(job, VOICE) for job in jobs])


def times(mel: Mel) -> np.ndarray:
    assert isinstance(mel.timings, Timings)
    return mel.timings.times


def test_words_last_as_long_as_the_speech_at_any_speed(acoustic):
    text = "The old lighthouse keeper counted 1/3 of the ships, twice."
    mels = generate(acoustic, *(Utterance(text, "en-US", speed=speed) for speed in (0.5, 1.0, 2.0)))
    for mel in mels:
        found = times(mel)
        assert (np.diff(found.ravel()) >= 0).all() and found[0, 0] >= 0 and found[-1, 1] <= mel.seconds
    slow, normal, fast = (times(mel)[:, 1] - times(mel)[:, 0] for mel in mels)
    assert slow.sum() == pytest.approx(2 * normal.sum(), rel=0.1)
    assert normal.sum() == pytest.approx(2 * fast.sum(), rel=0.15)


def test_a_batch_gives_the_times_that_each_member_has_alone(acoustic):
    jobs = [
        Utterance("It costs $5 today.", "en-US"),
        Utterance("中奖的概率是1/3，请注意。", "zh-CN"),
        Utterance("今日の気温は-5℃です。", "ja-JP", speed=1.3),
    ]
    together = generate(acoustic, *jobs)
    for job, mel in zip(jobs, together, strict=True):
        (alone,) = generate(acoustic, job)
        np.testing.assert_array_equal(alone.timings.spans, mel.timings.spans)
        np.testing.assert_array_equal(alone.timings.words, mel.timings.words)
        np.testing.assert_allclose(alone.timings.times, mel.timings.times, atol=1e-6)
        assert alone.timings.symbols == mel.timings.symbols


def test_a_long_text_of_several_parts_keeps_its_order(acoustic):
    text = "we walked along the river in the morning, then we crossed the old bridge near the mill, " * 3 + "and slept."
    (mel,) = generate(acoustic, Utterance(text, "en-US"))
    words = mel.timings.heard("word", text, text)
    check(words, text, text.replace(",", "").rstrip(".").replace(" ", "|"))
    assert words[-1].end_s <= mel.seconds and words[-1].end_s > 0.85 * mel.seconds


def test_speech_is_where_the_times_say_after_the_edges_are_cut(acoustic, vocoder):
    """The sound begins at the first word's beginning and ends with the last one, and a comma is a silence."""
    text = "Stop, please wait here."
    (mel,) = generate(acoustic, Utterance(text, "en-US"))
    assert isinstance(vocoder, TimedVocoder)
    ((wave, cut_s),) = vocoder.vocode_timed([mel])
    assert cut_s > 0.1, "the silence before the speech was cut"
    found = mel.timings.cut(cut_s, len(wave) / 24_000)
    words = found.heard("word", text, text)
    frames = np.sqrt(np.square(wave[: len(wave) // 240 * 240].reshape(-1, 240)).mean(1))
    loud = np.flatnonzero(frames > frames.max() * 10 ** (-35 / 20)) / 100
    assert loud[0] == pytest.approx(words[0].start_s, abs=0.1)
    assert loud[-1] == pytest.approx(words[-1].end_s, abs=0.16), "a last sound dies away, and its time with it"
    pause = frames[int(words[0].end_s * 100) : int(words[1].start_s * 100)]
    assert len(pause) > 3 and pause.min() < frames.max() * 10 ** (-35 / 20)

    words = heard_in(found, wave, 24_000).heard("phoneme", text, text)
    check(words, text, "Stop|please|wait|here")
    assert loud[0] == pytest.approx(words[0].start_s, abs=0.03)
    assert loud[-1] == pytest.approx(words[-1].end_s, abs=0.05), "the end is where the sound has died away"
    pause = frames[round(words[0].end_s * 100) + 1 : round(words[1].start_s * 100) - 1]
    assert len(pause) > 3 and pause.max() < frames.max() * 10 ** (-35 / 20), "all of it is silent"
    assert [before.end_s == after.start_s for before, after in zip(words, words[1:], strict=False)][1:] == [True, True]


def test_the_words_cost_next_to_nothing(front_end):
    text = "The temperature fell to -5°C on March 3, 2024, and 1/3 of the 1,200 guests left before 5:30 pm."
    phonemes = front_end.phonemes(text, "en", "en-US")
    seconds = np.zeros((len(phonemes), 2))
    timings(phonemes, seconds, text)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        timings(phonemes, seconds, text)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.01, "of about a second that the speech takes"


def test_pieces_of_a_request_know_their_places_in_its_text():
    text = "# First\n\nThis is **bold** news. " + "Then $5 was paid, and it rained. " * 12
    request = parse({"text": text, "dialect": "en-US", "long_form": "true"})
    written = request.utterance.text
    for early in (True, False):
        at = 0
        for piece in request.pieces(early):
            assert isinstance(piece.text, AlignedText)
            (whole,) = part_of(piece.text, written, 0.0, 1.0)
            assert whole.start >= at and whole.text == written[whole.start : whole.end]
            assert whole.text.replace("**", "").removeprefix("# ") == piece.text
            at = whole.end
    bold = next(piece.text for piece in request.pieces(True) if "bold" in piece.text)
    at = bold.index("bold")
    assert written[slice(*bold.source(at, at + 4))] == "bold"


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("pause", ["", "[pause:1s] "])
def test_pieces_of_which_markdown_would_leave_nothing_know_their_places_too(early, pause):
    text = f"{pause}~~~~ One sentence is here. And another one is there. " + "And so on it goes. " * 20
    request = parse({"text": text, "dialect": "en-US", "long_form": "true"})
    pieces = request.pieces(early)
    assert len(pieces) > 1
    found = [part_of(piece.text, request.written, 0.0, 1.0)[0] for piece in pieces]
    assert [word.text for word in found] == [piece.text for piece in pieces]
    assert all(before.end <= after.start for before, after in zip(found, found[1:], strict=False))
