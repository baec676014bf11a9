"""What an enrolment must be before anything is stored: its fields, its name, and where the store may lie."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
from pydantic import ValidationError

from speech.errors import InvalidInput
from voices import Voices, VoiceSettings
from voices.enrolment import MAX_CONSENT, check_consent, parse
from voices.names import MAX_NAME, check_name

UNSEEN = "\x7f\u2028\u200b\u200d\u202e\ufeff\u3164\u115f\uffa0\ufe0f\u034f\U000e0101"
GOOD = {"name": "anna", "dialect": "en-US", "consent": "Agreed in writing."}


def refused(call, *args):
    with pytest.raises(InvalidInput) as caught:
        call(*args)
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "anna",
        "Anna-2_b.wav",
        "-",
        "_a",
        "9",
        "安娜",
        "Ümit",
        "анна",
        "हिन्दी",
        "ไทย",
        "한국어",
        "אנה",
        "آنا",
        "x" * MAX_NAME,
        "٣",
        "voice",
        "voices_",
        "invoice_1",
        "a..b",
    ],
)
def test_names_in_any_script(name):
    assert check_name(name) == unicodedata.normalize("NFC", name)


def test_a_name_is_composed_before_it_is_measured():
    assert check_name("e\u0301" * MAX_NAME) == "\u00e9" * MAX_NAME


@pytest.mark.parametrize(
    "name, code",
    [
        ("", "name_missing"),
        ("x" * (MAX_NAME + 1), "name_too_long"),
        ("x" * 600, "name_too_long"),
        *((f"a{char}b", "name_character") for char in " /\\\n\t\0%?#:@&+,;'\"<>|~*()[]{}!$^`=😀½²Ⅷ\ud800" + UNSEEN),
        (".hidden", "name_start"),
        ("..", "name_start"),
        ("\u0301a", "name_start"),
        ("voice_", "name_like_an_id"),
        ("voice_3f9a", "name_like_an_id"),
        ("VOICE_x", "name_like_an_id"),
        ("ｖｏｉｃｅ＿x", "name_character"),
        ("ｖｏｉｃｅ_x", "name_like_an_id"),
    ],
)
def test_what_is_no_name(name, code):
    error = refused(check_name, name)
    assert (error.code, error.param, error.status) == (code, "name", 400)


@pytest.mark.parametrize("consent", ["", " \n ", "\u3000"])
def test_no_consent_no_voice(consent):
    error = refused(parse, GOOD | {"consent": consent})
    assert (error.code, error.param) == ("consent_missing", "consent")


def test_consent_is_kept_as_it_was_sent():
    text = "I agree.\r\n\tSigned: e\u0301va می\u200cخواهم <|x|>"
    assert check_consent(f"  {text}\n") == text
    assert check_consent("字" * MAX_CONSENT)
    error = refused(check_consent, "字" * (MAX_CONSENT + 1))
    assert error.code == "consent_too_long" and "1001" in error.message and "1000" in error.message


@pytest.mark.parametrize("char", ["\0", "\x1b", "\x85", "\ud800"])
def test_consent_without_control_characters(char):
    assert refused(check_consent, f"a{char}b").code == "consent_control_character"


def test_the_other_fields():
    asked = parse(GOOD | {"dialect": "zh_sichuan", "prompt_text": "  e\u0301t\u00e9 "})
    assert (asked.dialect.code, asked.transcript, asked.name) == ("zh-Sichuan", "\u00e9t\u00e9", "anna")
    assert parse(GOOD).transcript is None and parse(GOOD | {"prompt_text": ""}).transcript is None
    for fields, code, param in (
        ({"name": "anna"}, "dialect_missing", "dialect"),
        (GOOD | {"dialect": "en-XX"}, "dialect_unknown", "dialect"),
        (GOOD | {"prompt_text": "<|x|>"}, "transcript_special_token", "prompt_text"),
        (GOOD | {"promt_text": "x"}, "field_unknown", "prompt_text"),
        (GOOD | {"qqq": "x"}, "field_unknown", None),
    ):
        error = refused(parse, fields)
        assert (error.code, error.param) == (code, param)
        assert "qqq" not in error.message and "promt" not in error.message
    for private in ("anna", "writing"):
        assert private not in repr(parse(GOOD))


@pytest.mark.parametrize("url", ["/data/voices", "file:///data/voices", "FILE:///data", "memory://voices", None])
def test_places_that_are_allowed(url):
    assert (Voices.open(VoiceSettings(url=url)) is None) == (url is None)


@pytest.mark.parametrize(
    "url, cause",
    [
        ("voices", "absolute"),
        ("./voices", "absolute"),
        ("~/voices", "absolute"),
        ("file://voices", "absolute"),
        ("", "absolute"),
        ("data:,x", "absolute"),
        ("s3:bucket", "absolute"),
        ("simplecache::s3://secret/x", "chain"),
        ("zip://x::/data/a.zip", "chain"),
        ("/data::x", "chain"),
        ("s3://secret/x", "not allowed"),
        ("gs://secret/x", "not allowed"),
        ("http://secret/x", "not allowed"),
        ("ssh://secret@host/x", "not allowed"),
        ("local:///data", "not allowed"),
        ("reference://secret", "not allowed"),
        ("S3://secret/x", "not allowed"),
    ],
)
def test_places_that_are_not(url, cause):
    with pytest.raises(ValidationError, match=cause) as caught:
        VoiceSettings(url=url)
    assert "secret" not in str(caught.value)


def test_only_stores_with_exclusive_creation_can_be_allowed():
    for protocol in ("http", "zip", "sftp", "simplecache"):
        with pytest.raises(ValidationError):
            VoiceSettings(url=f"{protocol}://x", protocols={protocol})
    assert VoiceSettings(url="s3://bucket/voices", protocols={"s3"}).url == "s3://bucket/voices"
    with pytest.raises(ValidationError):
        VoiceSettings(urls="/data")


def test_nothing_of_ray_or_tracing_comes_along():
    code = (
        "import sys, voices; "
        "heavy = {'ray', 'opentelemetry', 'fastapi', 'starlette', 'torch', 'tracing', 'deployments'}; "
        "found = heavy & {name.split('.')[0] for name in sys.modules}; sys.exit(str(found) if found else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
