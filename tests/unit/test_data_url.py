"""Clips in data URLs: strict in what is read, and nothing is ever fetched."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech import data_url
from speech.data_url import decode
from speech.errors import InvalidInput

LIMIT = 1000


def url(data: bytes, head: str = "data:audio/wav;base64") -> str:
    return f"{head},{base64.b64encode(data).decode()}"


def refused(text: str, limit: int = LIMIT) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        decode(text, limit)
    assert caught.value.param == "ref_audio" and "Sekret" not in caught.value.message
    return caught.value


@settings(deadline=None, derandomize=True)
@given(st.binary(min_size=1, max_size=LIMIT))
def test_what_was_encoded_comes_back(data):
    assert decode(url(data), LIMIT) == data


@pytest.mark.parametrize(
    "head",
    [
        "data:audio/mpeg;base64",
        "DATA:Audio/WAV;BASE64",
        "data:application/octet-stream;base64",
        "data:audio/ogg;codecs=opus;base64",
        "data:audio/x-wav;base64",
    ],
)
def test_media_types_of_audio_are_read(head):
    assert decode(url(b"RIFF", head), LIMIT) == b"RIFF"


@pytest.mark.parametrize(
    "text",
    [
        "https://Sekret.example/a.wav",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "s3://bucket/Sekret",
        "//host/a.wav",
        "/etc/passwd",
        "UklGRg==",
        "",
        " data:audio/wav;base64,UklGRg==",
        "ftp://x",
        "javascript:alert(1)",
    ],
)
def test_no_other_address_is_taken(text):
    error = refused(text)
    assert error.code == "url_not_allowed" and "fetched" in error.message and "base64" in error.message


@pytest.mark.parametrize(
    "text, code",
    [
        ("data:audio/wav,Sekret", "data_url_malformed"),
        ("data:;base64,UklGRg==", "data_url_malformed"),
        ("data:audio/wav;base64", "data_url_malformed"),
        ("data:audio/wav;base64 ,UklGRg==", "data_url_malformed"),
        ("data:audio/wav;base64\n,UklGRg==", "data_url_malformed"),
        ("data:audio/wav;" + "a=b;" * 100 + "base64,UklGRg==", "data_url_malformed"),
        ("data:audio/wav;base64,UklGRg=", "data_url_malformed"),
        ("data:audio/wav;base64,UklG Rg==", "data_url_malformed"),
        ("data:audio/wav;base64,UklGRg==\n", "data_url_malformed"),
        ("data:audio/wav;base64,_-lGRg==", "data_url_malformed"),
        ("data:audio/wav;base64,UklGRg==Sekret==", "data_url_malformed"),
        ("data:audio/wav;base64,é", "data_url_malformed"),
        ("data:audio/wav;base64,%20", "data_url_malformed"),
        ("data:audio/wav;base64,", "clip_empty"),
        ("data:text/html;base64,UklGRg==", "media_type_unsupported"),
        ("data:video/mp4;base64,UklGRg==", "media_type_unsupported"),
    ],
)
def test_what_is_wrong_is_said(text, code):
    assert refused(text).code == code


@pytest.mark.parametrize("excess", [1, 2, 3, 10_000])
def test_too_large_a_clip_is_refused(excess):
    assert len(decode(url(b"x" * LIMIT), LIMIT)) == LIMIT
    error = refused(url(b"x" * (LIMIT + excess)))
    assert error.code == "clip_too_large" and "1000 bytes" in error.message
    assert "20 MB" in refused(url(b"x" * (20 * 2**20 + excess)), 20 * 2**20).message


def test_too_large_a_clip_is_not_decoded(monkeypatch):
    monkeypatch.setattr(data_url.base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    assert refused(url(b"x" * (LIMIT + 3))).code == "clip_too_large"
