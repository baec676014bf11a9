"""Configuration that is wrong says so, with the nearest name."""

import pytest
from pydantic import ValidationError

from engines import contract
from graph import GraphConfig
from speech.dialects import DIALECTS
from speech.errors import InvalidInput


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ValidationError, match="unknown key 'engin' in GraphConfig; did you mean 'engine'"):
        GraphConfig(engin="embedded")
    with pytest.raises(ValidationError, match="unknown key 'max_inflight' in Limits; did you mean 'max_in_flight'"):
        GraphConfig(limits={"max_inflight": 3})


def test_an_unknown_engine_names_the_known_ones():
    with pytest.raises(ValueError, match="known engines: cosyvoice3, embedded, simulated"):
        contract.create("nope")


def test_engine_options_are_strict():
    with pytest.raises(ValidationError):
        contract.create("simulated", {"generate_msec": 3})


def test_dialects_can_be_added_but_not_twice():
    more = DIALECTS.extended(
        [{"code": "zh-Wenzhou", "name": "温州话", "english_name": "Wenzhounese", "language": "zh", "tag": "wenzhou"}]
    )
    assert more.find("zh_wenzhou").name == "温州话"
    with pytest.raises(ValueError, match="registered twice"):
        DIALECTS.extended([{"code": "zh-cn", "name": "x", "english_name": "x", "language": "zh", "tag": "y"}])


def test_codes_are_read_as_people_write_them():
    assert DIALECTS.find(" zh_sichuan ").code == "zh-Sichuan"
    with pytest.raises(InvalidInput, match="Did you mean zh-Sichuan"):
        DIALECTS.find("zh-Sichaun")
