"""The script of a text, and the refusal of a dialect that is not written in it."""

import pytest

from speech.errors import InvalidInput
from speech.script import SCRIPTS, check_script, script_of
from tracing.allow_list import TAG_SHAPES
from tracing.vocabulary import TEXT_SCRIPT

SPOKEN = ("en-US", "en-GB", "zh-CN", "ja-JP")


@pytest.mark.parametrize(
    "text, script",
    [
        ("Hello, world 1", "latin"),
        ("Größe", "latin"),
        ("ＡＢＣ", "latin"),
        ("你好，世界", "han"),
        ("〇", "han"),
        ("こんにちは世界", "kana"),
        ("ｶﾅ", "kana"),
        ("안녕", "hangul"),
        ("Привет", "cyrillic"),
        ("αβγ", "greek"),
        ("مرحبا", "other"),
        ("我用Python写", "mixed"),
        ("我们今天一起去公园里看花，带上A", "han"),
        ("123 !? 😀", "none"),
        ("<strong>你好</strong>[breath]", "han"),
    ],
)
def test_the_script_of_a_text(text, script):
    assert script_of(text) == script and script in SCRIPTS


def test_every_script_may_stand_in_a_trace():
    assert all(TAG_SHAPES[TEXT_SCRIPT].fullmatch(script) for script in SCRIPTS)


@pytest.mark.parametrize(
    "text, dialect, named",
    [
        ("今天天气很好。", "en-GB", ["zh-CN", "ja-JP"]),
        ("カタカナです", "en-US", ["ja-JP"]),
        ("こんにちは", "zh-CN", ["ja-JP"]),
        ("今天天气很好。", "de-DE", ["zh-CN"]),
        ("今天天气很好。", "ko-KR", ["zh-CN"]),
        ("Привет", "en-US", []),
        ("안녕하세요", "ja-JP", []),
        ("<strong>你好</strong>", "en-US", ["zh-CN"]),
        ("2026年11月28日", "en-US", ["zh-CN"]),
    ],
)
def test_a_text_that_nobody_writes_in_that_dialect_is_refused_with_those_that_fit(text, dialect, named):
    with pytest.raises(InvalidInput) as caught:
        check_script(text, dialect, SPOKEN)
    error = caught.value
    assert (error.code, error.param, error.status) == ("text_not_in_dialect", "text", 400)
    assert all(code in error.message for code in named)
    assert text not in error.message
    wrong = {"en-US", "en-GB", "zh-CN", "ja-JP"} - set(named) - {dialect, "ja-JP"}
    assert not any(f" {code}" in error.message.split("Ask for")[-1] for code in wrong if "Ask for" in error.message)


@pytest.mark.parametrize(
    "text, dialect",
    [
        ("Hello", "zh-CN"),
        ("OK", "ja-JP"),
        ("Hello", "ru-RU"),
        ("漢字", "ja-JP"),
        ("He said 你好 to me.", "en-US"),
        ("我用Python写代码", "zh-CN"),
        ("12:30", "en-US"),
        ("...", "en-US"),
        ("[R][EH1][D]", "en-US"),
        ("你好", "zh-Sichuan"),
        ("Grüß Gott", "de-DE"),
    ],
)
def test_what_people_do_write_is_left_to_the_engine(text, dialect):
    check_script(text, dialect, SPOKEN)
