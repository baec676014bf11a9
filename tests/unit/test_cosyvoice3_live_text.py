"""Tokens of a text that is still coming: final as soon as they are handed over, and those of the whole text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engines.cosyvoice3 import live_text
from engines.cosyvoice3 import text as texts
from engines.cosyvoice3.tokenizer import TextTokenizer
from speech.errors import InvalidInput
from tests.helpers.cosyvoice3 import golden_directory

TEXTS = Path(__file__).parent / "texts"
ENGLISH = (
    "Well, you know, Dr. Smith moved to 12 Main St. in May 2024, and paid $3.50 a day. World War II ended. "
    "He said “I am very happy here”, and **very much so indeed** he was!\n\n# What a heading\n- one point of many\n"
    "- another point, with more of it\n\nIt is 25 °C (which is rather warm for us) today, isn't it? Yes."
)
CHINESE = "你好，今天是2026年11月28日。我们说“天气很好”，是吗？气温25，000度……真的！他说：走吧，我们去看看Node.js框架。"
JAPANESE = "今日は2026年11月28日です。空が青い、とても良い天気ですね。\nはい、そうです。"
GERMAN = "Am 3. Mai zahlte Herr Dr. Müller 1.234,50 € für z. B. Äpfel, Birnen und vieles mehr. Das war viel Geld."
RUSSIAN = "Сегодня 25 градусов, и мы идём гулять в парк. Это г. Москва, т. е. столица."
SAMPLES = {"en": ENGLISH, "zh": CHINESE, "ja": JAPANESE, "de": GERMAN, "ru": RUSSIAN}


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def corpus(language: str) -> list[str]:
    lines = (TEXTS / f"{language}.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t")[0] for line in lines if line and not line.startswith("#")]
    gap = " " if language == "en" else ""
    return [*rows, *(gap.join(rows[at : at + 8]) for at in range(0, len(rows), 8)), gap.join(rows[:60])]


@pytest.mark.parametrize("language", SAMPLES)
def test_no_token_changes_when_more_text_comes(language):
    for text in (SAMPLES[language], f"{SAMPLES[language]} {SAMPLES[language]}"):
        before: list[live_text.LivePart] = []
        for end in range(len(text) + 1):
            now = live_text.parts(text[:end], language, end < len(text), letters)
            for part, earlier in zip(now, before, strict=False):
                assert part.ids[: len(earlier.ids)] == earlier.ids and (earlier.open or part.ids == earlier.ids)
            assert len(now) >= len(before) and [part.open for part in now[:-1]] == [False] * (len(now) - 1)
            before = now
        assert not before[-1].open


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_a_text_in_stretches_is_read_as_a_whole_one_is(language):
    other = 0
    for text in corpus(language):
        stretches = live_text.split(text, language, open=False)
        assert "".join(stretches).strip() == text.strip()
        said = "".join(part.said for part in live_text.parts(text, language, False, letters))
        other += re.sub(r"\s", "", said) != re.sub(r"\s", "", texts.normalised(text, language))
    # A reading that depends on the sentence before (辛い), and `7 pm. We`, whose full stop the whole text loses.
    assert other <= {"en": 2, "zh": 0, "ja": 2}[language]


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_a_text_in_stretches_has_the_tokens_of_the_whole(language):
    tokenizer = TextTokenizer(golden_directory())
    alone = 0
    for text in corpus(language):
        if language != "en" and max(map(len, live_text.split(text, language, False))) >= 60:
            continue  # cut between two letters, for want of a better place
        found = live_text.parts(text, language, False, tokenizer.ids)
        for part in found:
            assert part.ids == tokenizer.ids(part.said)
        alone += len(found) == 1
    assert alone > 200


def test_words_are_handed_over_one_by_one_and_numbers_with_their_neighbours():
    assert live_text.split("The quick brown fox ", "en", open=True) == ["The", " quick", " brown"]
    assert live_text.split("The quick brown fox", "en", open=True) == ["The", " quick"], "fox may become foxes"
    assert live_text.split("It costs $3 or 4 euros a day now", "en", True) == ["It", " costs $3 or 4 euros", " a"]
    assert live_text.split("Ask Dr. Smith about it please", "en", True) == ["Ask Dr. Smith", " about"]
    assert live_text.split("He **is very glad** to go home", "en", True) == ["He **is very glad** to"]
    assert live_text.split("你好，今天天气很好，我", "zh", True) == ["你好", "，今天天气很好"]
    assert live_text.split("你好，", "zh", True) == [], "the next character may belong to it"
    assert live_text.split("一共25，其中一半", "zh", True) == []


def test_a_text_without_a_place_is_handed_over_all_the_same():
    signs = "12 34 56 78 " * 30
    assert 1 <= len(live_text.split(signs, "en", open=True)) < 4
    assert len(live_text.split("好" * 200, "zh", open=True)[0]) == 60


def test_a_long_text_begins_new_parts_after_sentences():
    sentence = "The quick brown fox jumps over the lazy dog again and again. "
    found = live_text.parts(sentence * 20, "en", True, lambda text: text.split())
    assert len(found) == 7 and all(part.said.endswith("again.") for part in found[:-1])
    assert all(30 <= len(part.ids) <= 42 for part in found[:-1]) and found[-1].open
    dense = live_text.parts("今天天气很好，我们去看看。" * 10, "zh", False, letters)
    assert len(dense) > 2 and all(part.said[-1] == "。" and part.said[0] == "今" for part in dense)


def test_a_text_gets_its_end_with_its_end():
    assert live_text.parts("Hello there, my friend,", "en", False, letters)[0].said == "Hello there, my friend."
    assert live_text.parts("Hello there, my friend,", "en", True, letters)[0].said == "Hello there,"
    for text in ("Hello my friends. 👍", "Hello my friends!\n", "Hello my (good) friends"):
        assert live_text.parts(text, "en", False, letters)[0].said == texts.normalised(text, "en")


@pytest.mark.parametrize("text", ["", " \n ", "👍 …", "。！"])
def test_nothing_to_say_is_told_when_no_more_will_come(text):
    (part,) = live_text.parts(text, "en", True, letters)
    assert part.open and not part.ids
    with pytest.raises(InvalidInput, match="Nothing in the text can be spoken"):
        live_text.parts(text, "en", False, letters)


def test_an_unknown_tag_is_told_as_soon_as_it_is_whole():
    live_text.parts("Well <b>then go", "en", True, letters)
    with pytest.raises(InvalidInput, match="a tag that CosyVoice3 does not know"):
        live_text.parts("Well <b>then</b> we go on from here", "en", True, letters)
