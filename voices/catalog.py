"""The catalog: the list of all voices.

A voice exists if, and only if, the newest list names it. Name and content are taken in the same moment, by the means of
[shared_list.py](shared_list.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict

from voices.record import VoiceRecord
from voices.shared_list import SharedList


class _File(BaseModel):
    """One list as it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    token: str  #: makes this file different from every other
    voices: tuple[VoiceRecord, ...] = ()


@dataclass(frozen=True)
class VoiceList:
    """All voices at one moment, the oldest first."""

    records: tuple[VoiceRecord, ...] = ()

    @cached_property
    def by_id(self) -> Mapping[str, VoiceRecord]:
        """The voices by id."""
        return {record.id: record for record in self.records}

    @cached_property
    def by_name(self) -> Mapping[str, VoiceRecord]:
        """The voices by name."""
        return {record.name: record for record in self.records}

    @cached_property
    def clip_bytes(self) -> int:
        """The bytes of all clips together."""
        return sum(record.clip.bytes for record in self.records)

    def adding(self, record: VoiceRecord) -> VoiceList:
        """Return a list with one more voice."""
        return VoiceList((*self.records, record))

    def replacing(self, record: VoiceRecord) -> VoiceList:
        """Return a list with this record in the place of the one with its id."""
        return VoiceList(tuple(record if record.id == old.id else old for old in self.records))

    def without(self, voice_id: str) -> VoiceList:
        """Return a list without this voice."""
        return VoiceList(tuple(record for record in self.records if record.id != voice_id))

    def holds_clip(self, clip: str) -> bool:
        """Tell whether a voice has the clip with this hash."""
        return clip in self._clips

    @cached_property
    def _clips(self) -> frozenset[str | None]:
        return frozenset(record.clip_hash for record in self.records)


class Catalog(SharedList[VoiceList]):
    """The list, as one process sees it."""

    folder = "catalog"
    noun = "voices"

    def empty(self) -> VoiceList:
        return VoiceList()

    def encode(self, value: VoiceList) -> bytes:
        return _File(token=secrets.token_hex(16), voices=value.records).model_dump_json().encode()

    def decode(self, data: bytes) -> VoiceList:
        return VoiceList(_File.model_validate_json(data).voices)
