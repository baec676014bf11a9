"""Fields of megabytes, which a JSON body may hold: none holds the event loop, whose time is every request's."""

import time

import pytest

from deployments.ingress.routes import cosyvoice
from speech import requests
from speech.dialects import DIALECTS
from speech.errors import InvalidInput
from voices import enrolment, mix
from voices.names import MAX_NAME

MANY = 5_000_000
GOOD = {"text": "Hello", "dialect": "en-US"}


def took_s(function) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


@pytest.mark.parametrize("field", [name for name in requests.FIELDS if name != "voice"])
@pytest.mark.parametrize("part", ["en-US", " ", "1", "+"])
def test_a_long_field_of_a_request_is_refused_soon(field, part):
    def ask() -> None:
        with pytest.raises(InvalidInput):
            requests.parse(GOOD | {"mode": "instruct", "style_instruction": "slowly", field: part * MANY + "x"})

    assert took_s(ask) < 0.5


@pytest.mark.parametrize("part", ["en-US", "a(", " ", "a"])
def test_a_long_voice_is_no_mix(part):
    assert took_s(lambda: mix.parse(part * MANY + "(")) < 0.1


def test_a_mix_of_millions_is_refused_soon():
    def ask() -> None:
        with pytest.raises(InvalidInput, match="5000001 voices"):
            mix.parse("+" * MANY)

    assert took_s(ask) < 0.1


def test_the_longest_mix_is_one():
    names = [chr(ord("a") + n) * MAX_NAME for n in range(mix.MOST_MEMBERS)]
    found = mix.parse(" + ".join(f"{name} ( 0.123456 )" for name in names))
    assert [member.name for member in found] == names


@pytest.mark.parametrize("parse", [requests.parse, enrolment.parse])
def test_a_long_name_of_a_field_is_refused_soon(parse):
    def ask() -> None:
        with pytest.raises(InvalidInput):
            parse({"dialect" * (MANY // 7): "x"})

    assert took_s(ask) < 0.1


def test_a_misspelt_dialect_still_has_its_hint():
    with pytest.raises(InvalidInput, match="Did you mean zh-Sichuan"):
        DIALECTS.find("zh-Sichun")


@pytest.mark.parametrize("text", [" " * 16_000 + "x", "x" + " " * 16_000 + "x", "<|endofprompt|> " * 1_000 + "x"])
def test_spaces_in_an_instruction_of_cosyvoices_clients_take_no_time(text):
    assert took_s(lambda: cosyvoice._instructed(text, DIALECTS, False)) < 0.1


@pytest.mark.parametrize("around", ["{}", "You are a helpful assistant. {}<|endofprompt|>", " {} \n <|endofprompt|> "])
def test_what_cosyvoice_wraps_instructions_in_is_removed(around):
    found = cosyvoice._instructed(around.format("Speak slowly."), DIALECTS, False)
    assert found["style_instruction"].strip() == "Speak slowly."
