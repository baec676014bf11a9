"""A text that is cut while it is written: at the same places however it is broken, and as a whole text is cut."""

from __future__ import annotations

import re
import time
import unicodedata
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speech import pauses
from speech.errors import InvalidInput
from speech.incremental import IncrementalSplitter
from speech.limits import MAX_LONG_TEXT, MAX_TEXT
from speech.pieces import pieces
from speech.script import script_of
from speech.sentences import Border, borders
from speech.text import check_long_text

SENTENCE, CLAUSE = Border.SENTENCE, Border.CLAUSE
#: Texts without one-word sentences and without very long ones: for these nothing depends on seeing all of a text.
TEXTS = {
    "en": (
        "Dr. Smith paid $3.5 million to the U.S. government, e.g. for J. R. R. Tolkien's books. He left the room at "
        '5 p.m. on Monday! "Stop right there!" she said to him. Was it No. 5, Fig. 2 or p. 7 of that book? Well... '
        "maybe it was version 2.5 of Node.js, nobody knows… Then he went home (all alone). It weighs 3,500 kg; it is "
        "rather heavy.\n\nA new paragraph begins here. See https://example.com/a.b?c=d for all of it."
    ),
    "de": (
        "Dr. Müller kommt am 3. Mai, z. B. um 15 Uhr. Er wohnt in der Hauptstr. 5 bzw. gleich nebenan. „Komm sofort "
        "her!“ rief sie ihm zu. Das war 1999 im alten Haus. Dann kam Ludwig XIV. nach Bonn zurück."
    ),
    "fr": (
        "M. Dupont est là depuis hier. Mme. Curie est venue aussi ! « Bonjour à tous. » dit-il enfin. C'est 3,5 km "
        "d'ici, cf. p. 5 du livre."
    ),
    "es": (
        "¿Cómo está usted hoy? ¡Muy bien, muchas gracias! El Sr. García llegó ayer. «Sí, claro que sí.» ¿Qué hora es?"
    ),
    "ru": "Это т. е. г. Москва, конечно. А. С. Пушкин родился в 1799 г. в Москве. Он жил на ул. Ленина долго.",
    "ko": ("안녕하세요, 여러분 반갑습니다. 저는 김 박사라고 합니다. 3.5점을 받았어요 정말로! 2024. 3. 5. 에 만나요."),
    "zh": (
        "他说：“你好，朋友！”今天天气很好，我们去公园吧。版本3.5是Node.js框架的。真的是这样吗？！他爱好[h][ào]音乐和电影。"
        "<strong>这个，很好听。</strong>我……我不知道怎么办。"
    ),
    "ja": (
        "「こんにちは、皆さん。」と彼は言った。今日はとても元気ですか？はい、とても元気です！（これで終わり。）"
        "また明日会いましょう。"
    ),
}


def split(text: str, language: str = "en", granularity: Border | None = SENTENCE, size: int | None = None) -> list[str]:
    splitter = IncrementalSplitter(language, granularity)
    parts = [text] if size is None else [text[at : at + size] for at in range(0, len(text), size)]
    return [piece for part in parts for piece in splitter.add(part)] + splitter.finish()


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_cut_where_a_whole_one_is(language):
    assert split(TEXTS[language], language) == pieces(TEXTS[language], language, join=False)


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("granularity", [SENTENCE, CLAUSE, None])
def test_fragments_do_not_matter(language, granularity):
    whole = split(TEXTS[language], language, granularity)
    assert all(split(TEXTS[language], language, granularity, size) == whole for size in (1, 2, 3, 7))


written = st.lists(
    st.sampled_from(
        [
            *"aA1é中かハ한 .!?,;:\n\"'”»「」。！，、…–—-()[]<>*_`~",
            ". ",
            ", ",
            "Dr. ",
            "no ",
            "[laughter]",
            "<b>",
            "</b>",
        ]
        + ["**", "\u0301", "\u200b", "<strong>", "</strong>", "😀", "\n\n- ", "hello "]
    ),
    max_size=60,
).map("".join)


@given(written, st.sampled_from(sorted(TEXTS)), st.sampled_from([SENTENCE, CLAUSE]), st.data())
@settings(max_examples=300, deadline=None)
@example("<b>Hello, you. And</b> so. It", "en", CLAUSE, None)
@example("*`*.. a", "en", CLAUSE, None)
def test_any_text_is_cut_the_same_in_any_fragments_and_nothing_is_lost(text, language, granularity, data):
    splitter, whole = IncrementalSplitter(language, granularity), split(text, language, granularity)
    at, found = 0, []
    while at < len(text):
        size = data.draw(st.integers(1, 9)) if data else 4
        found += splitter.add(text[at : at + size])
        at += size
    assert found + splitter.finish() == whole
    letters = re.compile(r"[^\W_]")
    if any(letters.search(piece) for piece in whole):
        said = "".join(letters.findall("".join(whole)))
        assert (
            sorted(said) == sorted(letters.findall(unicodedata.normalize("NFC", text)))
            or "<" in text
            or "[laughter]" in text
        )


@given(st.sampled_from(sorted(TEXTS)), st.integers(1, 400))
@settings(deadline=None)
def test_no_piece_is_given_out_that_more_text_would_change(language, length):
    """A prefix's pieces are the beginning of the whole text's pieces, before its end is flushed."""
    text = TEXTS[language]
    for granularity in (SENTENCE, CLAUSE):
        early = IncrementalSplitter(language, granularity).add(text[:length])
        assert early == split(text, language, granularity)[: len(early)]


@pytest.mark.parametrize(
    "before, after, granularity",
    [
        ("Good morning, ", "Good morning,", CLAUSE),
        ("Good morning to you. I", "Good morning to you.", SENTENCE),
        ("今天天气很好，我", "今天天气很好，", CLAUSE),
        ("今天天气很好。我", "今天天气很好。", SENTENCE),
        ("- Milk and bread\n- b", "Milk and bread", CLAUSE),
    ],
)
def test_a_piece_comes_with_the_first_character_behind_it_and_not_before(before, after, granularity):
    language = "zh" if "今" in before else "en"
    splitter = IncrementalSplitter(language, granularity)
    assert splitter.add(before[:-1]) == []
    assert splitter.add(before[-1]) == [after]


def test_a_clause_of_one_or_two_words_is_said_with_the_next_unless_it_comes_first():
    assert split("Yes, I do like it, and, well, you do too.", granularity=CLAUSE) == [
        "Yes,",
        "I do like it,",
        "and, well, you do too.",
    ]
    assert split("He said so. No. That is all of it.") == ["He said so.", "No. That is all of it."]


def test_a_tag_or_a_pair_of_them_is_never_divided():
    assert split("It is <strong>good, really. Very</strong> good. Yes it is.", granularity=CLAUSE)[0] == (
        "It is <strong>good, really. Very</strong> good."
    )
    assert split("I read[R][EH1][D] it, [laughter] and then I left.", size=1, granularity=CLAUSE) == [
        "I read[R][EH1][D] it,",
        "[laughter] and then I left.",
    ]
    assert split("It is <b> bold, or not, at " + "a long way " * 30, granularity=CLAUSE)[0].startswith("It is <b> bold")


def test_markdown_goes_before_the_text_is_cut():
    text = "**Note.** This is **very, very important** to `me`.\n\n1. Open the box.\n2. Look at 2**3 and 4 * 5."
    assert split(text) == [
        "Note.",
        "This is very, very important to me.",
        "1. Open the box.",
        "2. Look at 2**3 and 4 * 5.",
    ]


def test_halves_of_a_pair_are_put_together_and_a_lone_half_is_refused():
    splitter = IncrementalSplitter("en", SENTENCE)
    assert splitter.add("It is fun \ud83d") == [] and splitter.add("\ude00 to do. I") == ["It is fun 😀 to do."]
    for text in ("a \ude00 b", "a \ud83d b"):
        with pytest.raises(InvalidInput) as refused:
            split(text)
        assert refused.value.code == "text_not_unicode"
    with pytest.raises(InvalidInput):
        split("a \ud83d")


def test_combining_characters_stay_with_their_letter():
    assert split("Cafe\u0301 is open now. E\u0301lan is not.", size=1) == ["Café is open now.", "Élan is not."]


def test_a_sentence_without_an_end_is_cut_at_the_limit():
    found = split("word " * 300, size=1)
    assert (
        len(found) >= 8
        and all(len(piece) <= MAX_TEXT for piece in found)
        and " ".join(found) == ("word " * 300).strip()
    )
    clauses = split("so many words that follow, " * 20)
    assert all(piece.endswith(",") for piece in clauses)


def test_a_text_that_is_too_long_is_refused():
    splitter = IncrementalSplitter("en", SENTENCE)
    splitter.add("a" * MAX_LONG_TEXT)
    with pytest.raises(InvalidInput) as refused:
        splitter.add("a")
    assert refused.value.code == "text_too_long" and "input.done" in refused.value.message


@pytest.mark.parametrize("end, code", [("a" * MAX_LONG_TEXT, "text_too_long"), ("\ud800 so.", "text_not_unicode")])
def test_what_is_complete_before_an_error_is_given_out_in_however_many_messages_it_comes(end, code):
    text = "It goes on, and on it goes. " * 20 + end
    said = []
    for size in (1, 1000, len(text)):
        splitter, found = IncrementalSplitter("en", CLAUSE), []
        with pytest.raises(InvalidInput) as refused:
            for at in range(0, len(text), size):
                for piece in splitter.completed(text[at : at + size]):
                    found.append(piece)
        assert refused.value.code == code
        said.append(found)
    assert len(said[0]) >= 30 and said[0] == said[1] == said[2]


def test_an_uncut_text_is_in_nfc_as_the_offsets_of_its_words_are():
    assert split("Le cafe\u0301 est ferme\u0301", "fr", None) == ["Le café est fermé"]


def test_what_can_not_be_said_alone_goes_with_a_neighbour():
    assert split("... Hello there, you. ...") == ["... Hello there, you."]
    splitter = IncrementalSplitter("en", SENTENCE)
    assert splitter.add(" \n") == [] and splitter.empty and splitter.finish() == []
    assert split("?!") == ["?!"], "an engine refuses it, and says why"


def test_a_border_is_one_of_the_whole_texts():
    for language, text in TEXTS.items():
        ends = {text[:at].strip() for at in borders(text, language)}
        said = ""
        for piece in split(text, language, CLAUSE)[:-1]:
            said = text[: text.index(piece) + len(piece)]
            assert said in ends


def test_a_long_text_in_single_characters_costs_little():
    began = time.process_time()
    split(("It goes on, and on - it never ends" * 200)[: MAX_LONG_TEXT - 1], granularity=CLAUSE, size=1)
    assert time.process_time() - began < 5


#: Repeated, or after a sentence, each made some search begin again at every character.
HOSTILE = [
    "<a>, ",
    "<a>",
    "</a>, ",
    "<b>a, ",
    "< ",
    "[",
    "[a][e]",
    "a[a]",
    "(",
    ". (",
    '. "',
    ", ",
    ". ",
    "— ",
    "1,",
    "1. ",
]
HOSTILE += [
    "**a ",
    "`a",
    "~~a ",
    "_a ",
    "|",
    "\n ",
    "[](",
    "[pause:",
    "<|a",
    "https://",
    "a. <" + " " * 4000,
    "a" + " " * 4000,
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_costs_much_more_than_another_of_its_length(hostile):
    text = (hostile * MAX_LONG_TEXT)[: MAX_LONG_TEXT - 1]
    began = time.process_time()
    split(text, granularity=CLAUSE, size=1)
    pieces(text, "en", join=False)
    script_of(text)
    with suppress(InvalidInput):
        check_long_text(text)
    with suppress(InvalidInput):
        pauses.parse(text)
    assert time.process_time() - began < 3
