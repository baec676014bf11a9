"""Aliases of models and voices: off by default, named where a name is not known."""

import asyncio
from unittest.mock import AsyncMock, Mock

import pytest

from deployments.ingress.deployment import CosyVoice3Api
from deployments.ingress.openai_fields import check_model
from deployments.settings import GraphConfig
from speech.errors import NotFound, VoiceNotFound
from voices import Voices, VoiceSettings


def api(**aliases) -> Mock:
    """An ingress with these aliases, as its routes see it."""
    found = Mock(config=GraphConfig(aliases=aliases).api())
    found.engine.capabilities.name = "fun-cosyvoice3-0.5b"
    return found


def asked_for(voice: str, **aliases) -> str:
    """The voice that the store is asked for."""
    backend = Mock()
    backend.voices.find_stored = AsyncMock()
    # The class as Serve wraps it; the method itself needs the settings alone.
    asyncio.run(CosyVoice3Api._stored_voice(api(**aliases), voice, None, backend))
    return backend.voices.find_stored.await_args.args[0]


def test_there_are_none_by_default_and_the_404_names_the_setting():
    with pytest.raises(NotFound, match="`aliases.models`") as refused:
        check_model("tts-1", api())
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(VoiceNotFound, match="`aliases.voices`"):
        Voices.open(VoiceSettings(url="memory://aliases")).find("alloy")
    assert asked_for("alloy") == "alloy"


def test_an_alias_stands_for_the_running_engines_model():
    check_model("tts-1", api(models=["tts-1", "tts-1-hd"]))
    with pytest.raises(NotFound, match="fun-cosyvoice3-0.5b and cosygraph and tts-1 "):
        check_model("tts-2", api(models=["tts-1"]))


def test_an_alias_stands_for_a_stored_voice_and_other_names_stay():
    assert asked_for("alloy", voices={"alloy": "anna"}) == "anna"
    assert asked_for("bert", voices={"alloy": "anna"}) == "bert"
