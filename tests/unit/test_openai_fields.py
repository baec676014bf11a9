"""`task_type` as vLLM-Omni's clients send it: their streaming one says CustomVoice unless it is told otherwise."""

from unittest.mock import Mock

import pytest

from deployments.ingress.openai_fields import fields_of
from deployments.settings import GraphConfig
from speech.errors import InvalidInput

CLIP = "data:audio/wav;base64,UklGRg=="


def fields(clip: bytes | None = None, **given: str) -> dict[str, str]:
    return fields_of({"input": "Hello.", **given}, clip, Mock(config=GraphConfig().api()))[0]


@pytest.mark.parametrize("given", [{}, {"task_type": "Base"}, {"task_type": "CustomVoice"}])
def test_a_voice_by_its_name_is_base_or_custom(given):
    assert fields(voice="anna", **given)["voice"] == "anna"


def test_a_clip_is_base():
    assert "voice" not in fields(task_type="Base", ref_audio=CLIP)


@pytest.mark.parametrize(
    ("given", "clip"),
    [
        ({"task_type": "VoiceDesign", "voice": "anna"}, None),
        ({"task_type": "CustomVoice"}, None),
        ({"task_type": "CustomVoice", "voice": "anna", "ref_audio": CLIP}, None),
        ({"task_type": "CustomVoice", "voice": "anna"}, b"RIFF"),
    ],
)
def test_any_other_is_refused_with_what_to_send(given, clip):
    with pytest.raises(InvalidInput, match="stored voice in 'voice' and no clip") as refused:
        fields(clip, **given)
    assert (refused.value.param, refused.value.code) == ("task_type", "task_type_unknown")
