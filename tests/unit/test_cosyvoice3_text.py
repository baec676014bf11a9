"""Texts made ready for CosyVoice3: numbers in the text's own language, tags whole, no part too long, prefixes ours."""

import pytest

from engines.cosyvoice3.prompts import CROSS_LINGUAL, INSTRUCT, SPOKEN, ZERO_SHOT, prompt
from engines.cosyvoice3.text import MOST, check, normalised, parts
from speech.dialects import DIALECTS
from speech.errors import InvalidInput, UnsupportedDialect
from speech.utterance import Utterance


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    "language, text, said",
    [
        ("zh", "我有25个苹果", "我有二十五个苹果。"),
        ("zh", "今天 天气 很好，", "今天天气很好。"),
        ("zh", "我 用 Python 3 写。", None),
        ("en", "I have 25 apples", "I have twenty-five apples."),
        ("en", "It costs 3.5 dollars.", "It costs three point five dollars."),
        ("de", "Ich habe 25 Äpfel", "Ich habe fünfundzwanzig Äpfel."),
        ("de", "Es sind 3,5 Grad.", "Es sind drei Komma fünf Grad."),
        ("de", "1.250 Leute", "eintausendzweihundertfünfzig Leute."),
        ("de", "Code 007", "Code null null sieben."),
        ("de", "Bus X3b um -5", "Bus X drei b um minus fünf."),
        ("fr", "25 % de 80", "vingt-cinq pour cent de quatre-vingts."),
        ("es", "Son €5.", "Son cinco euros."),
        ("it", "Sono le 8", "Sono le otto."),
        ("ru", "У меня 25", "У меня двадцать пять."),
        ("ko", "사과 25개", "사과 이십오개."),
    ],
)
def test_numbers_are_spelled_in_the_texts_own_language(language, text, said):
    found = normalised(text, language)
    assert not any(char.isdigit() for char in found)
    assert said is None or found == said


def test_japanese_comes_out_in_katakana():
    found = normalised("今日は3本の映画を見た。", "ja")
    assert found == "キョーワサンボンノエーガヲミタ。"


@pytest.mark.parametrize(
    "language, text",
    [
        ("zh", "报道[j][ǐ]予好评[breath]，<strong>很好</strong>。"),
        ("en", "He read[R][EH1][D] <laughter>it</laughter> [sigh]."),
        ("ja", "[breath]ソウデス。"),
    ],
)
def test_tags_and_pronunciations_come_through_untouched(language, text):
    assert normalised(text, language) == text


@pytest.mark.parametrize("text", ["so <break/> what", "<b>bold</b>", "</speak>"])
def test_an_unknown_tag_is_refused(text):
    with pytest.raises(InvalidInput, match="tag that CosyVoice3 does not know") as refused:
        parts(text, "en", words)
    assert refused.value.code == "text_tag_unsupported"


@pytest.mark.parametrize("text", ["!!!", "……", "🙂", "[breath]"])
def test_what_has_no_sound_is_refused(text):
    with pytest.raises(InvalidInput, match="Nothing in the text can be spoken"):
        parts(text, "en", words)


def test_a_pronunciation_alone_can_be_spoken():
    assert parts("[n][ǐ][h][ǎo]", "zh", len) == ["[n][ǐ][h][ǎo]。"]


@pytest.mark.parametrize(
    "language, text",
    [
        ("zh", "今天天气很好，我们去散步吧。" * 14),
        ("zh", "今天天气很好我们去散步吧" * 16),
        ("zh", "很好，" * 66),
        ("en", "We went for a walk, and it rained. " * 6 + "Yes."),
        ("en", "a" * 200),
        ("ja", "キョーワヨイテンキデス。" * 16),
    ],
)
def test_a_long_text_is_cut_and_nothing_is_lost(language, text):
    def count(part):
        return len(part) if " " not in part else 2 * words(part)

    found = parts(text, language, count)
    assert len(found) > 1 or count(found[0]) <= MOST + 20
    assert all(count(part) <= MOST + 20 for part in found)
    assert "".join(found).replace(" ", "") == normalised(text, language).replace(" ", "")
    if language == "zh" and "。" in text:
        assert all(part.endswith("。") for part in found)


def test_a_text_is_never_cut_inside_a_tag():
    text = "很好" * 38 + "<strong>" + "重要" * 5 + "</strong>" + "[j][ǐ]" * 12
    found = parts(text, "zh", len)
    assert len(found) > 1 and "".join(found) == text + "。"
    assert all(
        part.count("[") == part.count("]") and part.count("<strong>") == part.count("</strong>") for part in found
    )


def test_a_full_stop_in_a_word_is_no_end():
    text = "Version a.b.c of example.com is out. " * 4
    assert all(part.endswith("out.") for part in parts(text, "en", lambda part: 3 * words(part)))


def test_the_three_modes_and_their_prefixes():
    plain = Utterance("好。", "zh-CN")
    assistant = "You are a helpful assistant."
    zero_shot, cross = prompt(plain, "好。", "你好。"), prompt(plain, "好。")
    assert (zero_shot.mode, zero_shot.before, zero_shot.continues_clip) == (
        ZERO_SHOT,
        f"{assistant}<|endofprompt|>你好。",
        True,
    )
    assert (cross.mode, cross.before, cross.continues_clip) == (CROSS_LINGUAL, f"{assistant}<|endofprompt|>", False)
    dialect = prompt(Utterance("好。", "zh-Sichuan"), "好。", "你好。")
    assert (dialect.mode, dialect.before, dialect.continues_clip) == (
        INSTRUCT,
        f"{assistant} 请用四川话表达。<|endofprompt|>",
        False,
    )


@pytest.mark.parametrize(
    "dialect, style, asked",
    [
        ("zh-CN", "happy", "请非常开心地说一句话。"),
        ("en-US", "Loudly.", "Please say a sentence as loudly as possible."),
        ("zh-CN", "像老师一样", "像老师一样。"),
        ("en-US", "like a teacher", "like a teacher."),
        ("zh-Cantonese", "开心", "请用广东话表达。请非常开心地说一句话。"),
        ("zh-CN", "慢一点！", "慢一点！"),
    ],
)
def test_an_instruction_is_the_trained_sentence_or_the_users_own(dialect, style, asked):
    found = prompt(Utterance("好。", dialect, mode="instruct", style_instruction=style), "好。", "你好。")
    assert found.before == f"You are a helpful assistant. {asked}<|endofprompt|>"


def test_every_dialect_is_asked_for_by_its_name_or_is_a_standard():
    assert len(SPOKEN) == 26 and all(code in DIALECTS for code in SPOKEN)
    with pytest.raises(UnsupportedDialect, match="British English.*en-GB"):
        prompt(Utterance("Hi.", "en-GB"), "Hi.")


@pytest.mark.parametrize(
    "text, code",
    [("Hi <b>you</b>", "text_tag_unsupported"), ("...", "text_not_speakable"), ("😀", "text_not_speakable")],
)
def test_what_can_be_refused_is_refused_before_anything_is_begun(text, code):
    for refuse in (check, lambda text: parts(text, "en", words)):
        with pytest.raises(InvalidInput) as caught:
            refuse(text)
        assert caught.value.code == code
    check("Hi <strong>you</strong> [breath]")
    check("[breath][h][ào]")


@pytest.mark.parametrize(
    "written, said",
    [
        ("In 1945 and 1806, in 2026.", "In nineteen forty-five and eighteen oh six, in twenty twenty-six."),
        ("The 1980s, the '90s.", "The nineteen eighties, the nineties."),
        ("The 21st, 3rd and 12th.", "The twenty-first, third and twelfth."),
        ("## Title", "Title."),
        ("Read [this](https://a.b/c) **now**.", "Read this now."),
        ("See [sic] it.", "See sic it."),
    ],
)
def test_english_years_ordinals_and_markdown(written, said):
    assert normalised(written, "en") == said
