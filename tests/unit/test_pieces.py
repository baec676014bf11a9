"""How a long text is cut: at the right places in every language, within the limit, and with nothing lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech.dialects import DIALECTS
from speech.inline import closed_spans, speakable
from speech.pieces import SHORTEST_LIMIT, pieces
from speech.sentences import Border, borders

LANGUAGES = sorted({dialect.language for dialect in DIALECTS})


def sentences(text: str, language: str) -> list[str]:
    ends = sorted(at for at, border in borders(text, language).items() if border is Border.SENTENCE)
    return [text[start:end].strip() for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@pytest.mark.parametrize(
    "language, marked",
    [
        ("en", "Dr. Smith paid $3.5 million to the U.S. government, e.g. for J. R. R. Tolkien.|He left.|Why?!|So."),
        ("en", '"Stop!" she said.|"Really?"|(He ran.)|It was 5 p.m. on Monday.|Mr. and Mrs. Hill, Jr., came.|Good.'),
        ("en", "Visit example.com now.|Is it No. 5, Fig. 2 or p. 7?|Well... maybe… it is.|He stopped…|Then he sang."),
        ("en", "1. Open the box.|2. Look.|It weighs 3,500 kg;|it is heavy.|It was 1999.|Nobody knew."),
        ("en", "hi there.|how are you?|i am fine."),
        ("en", "A title\n\nIt begins.|And ends."),
        ("de", "Dr. Müller kommt am 3. Mai, z. B. um 15 Uhr.|Er wohnt in der Hauptstr. 5 bzw. nebenan.|Ja."),
        ("de", "Im 21. Jahrhundert."),
        ("de", "„Komm!“ rief sie.|„Nein.“|Das war 1999.|Dann kam Ludwig XIV. nach Bonn."),
        ("es", "¿Cómo está?|¡Muy bien!|El Sr. García llegó.|La Dra. Ruiz, p. ej., no.|«Sí.»|¿Qué?"),
        ("fr", "M. Dupont est là.|Mme. Curie aussi !|« Bonjour. » dit-il.|« Non. »|C'est 3,5 km, cf. p. 5."),
        ("it", "Il sig. Rossi è qui.|Il dott. Bianchi no!|Vedi pag. 7.|È così."),
        (
            "ru",
            "Это т. е. г. Москва.|А. С. Пушкин родился в 1799 г. в Москве.|Он жил на ул. Ленина.|«Да.» — сказал он.",
        ),
        ("ko", "안녕하세요.|저는 김 박사입니다.|3.5점을 받았어요!|정말요?|“네.”|2024. 3. 5. 에 만나요."),
        ("zh", "他说：“你好！”|“你也好。”他笑了。|今天天气很好。|真的吗？！|是的……|好吧；|我……我不知道。"),
        ("zh", "版本3.5，Node.js框架。|（完。）|再见"),
        ("zh", '"走!"他喊。|他说。|"好."|"嗯。"'),
        ("zh", "他爱好[h][ào]音乐。|<strong>很好。</strong>|[breath]再见。[sigh]好。".replace("。[sigh]", "。|[sigh]")),
        ("ja", "「こんにちは。」と彼は言った。|元気ですか？|はい！|（終わり。）|「はい。」|「いいえ。」"),
    ],
)
def test_sentences_end_where_they_end(language, marked):
    if "\n\n" in marked:
        marked = marked.replace("\n\n", "\n\n|")
    expected = [part.strip() for part in marked.split("|")]
    text = marked.replace("|", " " if language not in ("zh", "ja") else "")
    assert sentences(text, language) == expected


def test_for_streaming_each_sentence_comes_alone_and_a_tiny_one_with_a_neighbour():
    text = "Good morning to all of you. Wow! The weather will stay as it is until Sunday. Rain comes then. Bye now."
    assert pieces(text, "en", join=False) == [
        "Good morning to all of you.",
        "Wow! The weather will stay as it is until Sunday.",
        "Rain comes then. Bye now.",
    ]
    assert pieces("早上好。今天的天气非常好，去公园散步吧。好的。我们明天再见面。再见。", "zh", join=False) == [
        "早上好。",
        "今天的天气非常好，去公园散步吧。",
        "好的。我们明天再见面。再见。",
    ]


def test_for_streaming_the_first_sentence_comes_first_however_short():
    assert pieces("Hi! Nice. It is good to see all of you here today.", "en", join=False)[0] == "Hi!"
    assert pieces("Hi! Bye.", "en", join=False) == ["Hi! Bye."], "but none is left tiny at the end"


def test_joined_pieces_are_few_and_of_a_size():
    sentence = "This sentence is just about fifty characters long. "
    cut = pieces(sentence * 5, "en")
    assert [len(piece) for piece in cut] == [101, 152] or [len(piece) for piece in cut] == [152, 101]
    cut = pieces("今天的天气非常好，我们去公园散步。" * 30, "zh")
    assert len(cut) == 3 and {len(piece) for piece in cut} == {170}


def test_a_long_sentence_is_cut_at_clauses_then_words_then_characters():
    clauses = ", ".join(["and this goes on with some more words"] * 8) + "."
    cut = pieces(clauses, "en")
    assert len(cut) == 2 and cut[0].endswith(",") and abs(len(cut[0]) - len(cut[1])) < 45
    words = " ".join(["word"] * 70) + "."
    cut = pieces(words, "en")
    assert len(cut) == 2 and set(" ".join(cut).split()) == {"word", "word."} and abs(len(cut[0]) - len(cut[1])) < 10
    cut = pieces("字" * 350, "zh")
    assert len(cut) == 2 and abs(len(cut[0]) - len(cut[1])) <= 10


def test_a_tiny_last_sentence_is_worth_a_cut_at_a_comma_but_not_one_between_words():
    long = "x" * 99 + ", " + "y" * 96 + "."
    assert pieces(f"{long} Yes.", "en") == ["x" * 99 + ",", "y" * 96 + ". Yes."]
    assert pieces(f"{'x' * 99} {'y' * 98}. Yes.", "en") == [f"{'x' * 99} {'y' * 98}.", "Yes."]


def test_a_small_kana_stays_with_what_it_belongs_to():
    for piece in pieces("きょうはしゃっくりがとまらないーっ" * 30, "ja"):
        assert piece[0] not in "ょゃっー"


@pytest.mark.parametrize(
    "inline",
    [
        "爱好[h][ào]",
        "read[R][EH1][D]",
        "<strong>很 好，真的。好</strong>",
        "[quick_breath]",
        "<laughter>ha. Ha, ha</laughter>",
        "[n][ǐ][h][ǎo]",
    ],
)
def test_what_is_inline_stays_whole(inline):
    for before in range(170, 205):
        cut = pieces("字" * before + inline + "字" * 150, "zh")
        assert sum(inline in piece for piece in cut) == 1


def test_inline_markup_longer_than_a_piece_is_cut_between_its_tags_and_syllables():
    cut = pieces("<strong>" + "很好。" * 100 + "</strong>", "zh")
    assert len(cut) == 2 and cut[0].startswith("<strong>") and cut[1].endswith("</strong>")
    cut = pieces("[n][ǐ][h][ǎo]" * 40, "zh")
    assert all(re.fullmatch(r"(\[n\]\[ǐ\]|\[h\]\[ǎo\])+", piece) for piece in cut)


def test_nothing_is_cut_off_that_says_nothing():
    assert pieces("Hello to you all. [breath] 😀 !!!", "en", join=False) == ["Hello to you all. [breath] 😀 !!!"]
    assert pieces("!!! [sigh]\n\n" + "字" * 200, "zh") != ["!!! [sigh]", "字" * 200], "a tag alone can't be said"
    wow = "wow" + "!" * 500
    assert "".join(pieces(wow, "en")).rstrip("!") == "wow" and len(pieces(wow, "en")) == 1
    assert "".join(pieces("?" * 500, "en")) == "?" * 500, "the engine says what is wrong with it"
    assert pieces("  ", "en") == []


def test_too_short_a_limit_is_a_mistake():
    with pytest.raises(ValueError, match="limit"):
        pieces("text", "en", limit=SHORTEST_LIMIT - 1)


ATOMS = st.sampled_from(
    [
        "word",
        "Dr. Smith",
        "3.5",
        "U.S.",
        " ",
        " ",
        " ",
        "  \n\n",
        "\n",
        ". ",
        "! ",
        ", ",
        "? ",
        "…",
        "字",
        "今天很好",
        "。",
        "，",
        "！”",
        "“",
        "「はい。」",
        "と",
        "っ",
        "안녕",
        "[h][ào]",
        "read[R][EH1][D]",
        "[breath]",
        "<strong>",
        "</strong>",
        "[",
        "]",
        "<",
        ">",
        "e\u0301\u0301",
        "😀",
        "x" * 70,
        "好" * 70,
        "«",
        "»",
        '"',
        "-",
        " — ",
        "1. ",
        "[see below]",
        "!" * 60,
    ]
)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(ATOMS | st.text(max_size=8), max_size=120).map("".join),
    st.sampled_from(LANGUAGES),
    st.booleans(),
    st.sampled_from([SHORTEST_LIMIT, 60, 200]),
)
def test_pieces_are_the_text_within_the_limit_and_whole(text, language, join, limit):
    cut = pieces(text, language, limit, join=join)
    assert all(0 < len(piece) <= limit and piece == piece.strip() for piece in cut)
    at, spans = 0, closed_spans(text, limit)
    missed = ""
    said = speakable(text)
    for piece in cut:
        found = text.index(piece, at)
        missed += text[at:found]
        assert not any(said[at:found]), "what is left out can't be said"
        for seam in (found, found + len(piece)):
            assert not any(start < seam < end for start, end in spans), "nothing inline is torn apart"
        at = found + len(piece)
    missed += text[at:]
    assert not any(said[at:])
    row = max(map(len, "".join("x" if char else " " for char in said).split("x")))
    if max([row, *(end - start for start, end in spans)]) <= limit // 4:
        assert not missed.strip(), "signs and tags are only left out where they have no room beside a word"
