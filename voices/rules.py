"""The rules for a new voice: one name, one content, and the limits of the store."""

from __future__ import annotations

from speech.errors import Conflict
from voices.catalog import VoiceList
from voices.record import VoiceRecord
from voices.settings import VoiceSettings


def is_stored(record: VoiceRecord, voices: VoiceList, limits: VoiceSettings) -> bool:
    """Tell whether this very voice is on the list.

    Raises:
        Conflict: it is not, and can't be added.
    """
    same = voices.by_id.get(record.id)
    if same is None:
        _check_room(record, voices, limits)
        return False
    if same.name != record.name:
        # With the clip and the transcript a caller can compute the id, and any caller may ask for its name.
        hint = f" It is yours: {same.id}." if same.owner == record.owner else ""
        raise Conflict(
            f"This clip with this transcript is stored already, under another name.{hint} A voice has one "
            "name; use that one, or rename or delete the voice first.",
            param="name",
            code="voice_exists",
        )
    if same.dialect != record.dialect:
        raise Conflict(
            "This voice is stored already, with another dialect. Delete it first to change that.",
            param="dialect",
            code="voice_differs",
        )
    return True


def check_name_is_free(name: str, voices: VoiceList) -> None:
    """Raise Conflict where a voice has this name."""
    if name in voices.by_name:
        raise Conflict(
            "This name is taken by another voice. Choose another name, or rename or delete that voice first.",
            param="name",
            code="voice_name_taken",
        )


def _check_room(record: VoiceRecord, voices: VoiceList, limits: VoiceSettings) -> None:
    check_name_is_free(record.name, voices)
    if len(voices.records) >= limits.max_voices:
        raise Conflict(
            f"The limit of {limits.max_voices} stored voices is reached. Delete one that is not needed any more.",
            code="voices_full",
        )
    if voices.clip_bytes + record.clip.bytes > limits.max_bytes:
        raise Conflict(
            f"The limit of {limits.max_bytes} bytes for all stored clips together would be passed. Delete a "
            "voice that is not needed any more, or send the clip as FLAC.",
            code="voices_full",
        )
