"""What `speech.text` lets through, and how it refuses."""

import pytest

from speech.errors import InvalidInput
from speech.text import (
    MAX_INSTRUCTION,
    MAX_LONG_TEXT,
    MAX_TEXT,
    MAX_TRANSCRIPT,
    check_instruction,
    check_long_text,
    check_text,
    check_transcript,
)


def refused(check, text):
    with pytest.raises(InvalidInput) as caught:
        check(text)
    return caught.value


def test_surrounding_space_and_invisible_characters_go_and_the_rest_stays():
    assert check_text("  \ufeffHello,\n\tworld\u200b! \n") == "Hello,\n\tworld!"


def test_the_result_is_composed():
    assert check_text("cafe\u0301") == "caf\u00e9"


@pytest.mark.parametrize("text", ["", "   ", "\n\t\r\n", "\u200b\u200d\ufeff", "\u3000\u00a0", "\u200b \u2060\n"])
@pytest.mark.parametrize("check", [check_text, check_long_text])
def test_nothing_visible_is_empty(check, text):
    error = refused(check, text)
    assert (error.code, error.param, error.status) == ("text_empty", "text", 400)


def test_the_limit_counts_composed_characters():
    assert check_text("e\u0301" * MAX_TEXT) == "\u00e9" * MAX_TEXT
    assert check_text("\U0001f600" * MAX_TEXT)  # one code point each, though two units of UTF-16
    assert check_text(" " * 50 + "好" * MAX_TEXT + " " * 50)


@pytest.mark.parametrize(
    "check, param, code, limit",
    [
        (check_text, "text", "text_too_long", MAX_TEXT),
        (check_long_text, "text", "text_too_long", MAX_LONG_TEXT),
        (check_instruction, "style_instruction", "instruction_too_long", MAX_INSTRUCTION),
        (check_transcript, "prompt_text", "transcript_too_long", MAX_TRANSCRIPT),
    ],
)
@pytest.mark.parametrize("excess", [1, 10_000_000])
def test_too_long_says_how_long_and_how_long_it_may_be(check, param, code, limit, excess):
    error = refused(check, "字" * (limit + excess))
    assert (error.code, error.param) == (code, param)
    assert str(limit + excess) in error.message and str(limit) in error.message


@pytest.mark.parametrize(
    "text",
    [
        "<|endofprompt|>",
        "a <|zh|> b",
        "<| x |>",
        "<||>",
        "<\u200b|endofprompt|>",
        "＜｜endofprompt｜＞",
        "< |a| >",
        "<|two\nlines|>",
    ],
)
def test_model_tokens_are_refused_however_they_are_hidden(text):
    assert refused(check_text, text).code == refused(check_long_text, text).code == "text_special_token"
    assert refused(check_instruction, text).code == "instruction_special_token"


@pytest.mark.parametrize("text", ["3 < 5 | 7 > 2", "a <b", "x |> y", "if a<b or b>c"])
def test_ordinary_comparison_signs_are_no_token(text):
    assert check_text(text) == text


def test_a_long_text_may_be_of_many_paragraphs():
    text = "A paragraph of a longer text.\n\n" * 150
    assert len(text) > MAX_TEXT and check_long_text(text) == text.strip()
    assert "several requests" in refused(check_long_text, text * 10).message


@pytest.mark.parametrize("char", ["\x00", "\x07", "\x1b", "\x7f", "\x9b"])
def test_control_characters_are_refused(char):
    assert refused(check_text, f"a{char}b").code == "text_control_character"
    assert refused(check_transcript, f"a{char}b").code == "transcript_control_character"


@pytest.mark.parametrize("text", ["\ud83d", "a\udfffb"])
def test_half_a_surrogate_pair_is_refused(text):
    assert refused(check_text, text).code == "text_not_unicode"


@pytest.mark.parametrize("text", ["Sekret" * 1000, "<|Sekret|>", "Sekret\x00", "Sekret\ud83d"])
def test_messages_never_repeat_the_text(text):
    for check in (check_text, check_long_text, check_instruction, check_transcript):
        error = refused(check, text)
        assert "Sekret" not in error.message and len(error.message) < 300
