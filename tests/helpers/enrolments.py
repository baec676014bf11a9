"""Voices to store in tests: the store takes any bytes for a clip, whoever calls it has checked them."""

from __future__ import annotations

from pathlib import Path

from speech.dialects import DIALECTS
from voices import ClipFacts, Enrolment, VoiceRecord, Voices, VoiceSettings

CONSENT = "Agreed to be cloned for tests, 25 November 2026."


def enrolment(name: str = "anna", dialect: str = "en-US", transcript: str | None = None) -> Enrolment:
    return Enrolment(name, DIALECTS.find(dialect), CONSENT, transcript)


def clip_of(text: str) -> bytes:
    return text.encode() * 1000


def facts(clip: bytes) -> ClipFacts:
    return ClipFacts(seconds=5.2, sample_rate=24_000, format="wav", bytes=len(clip))


def store(
    voices: Voices, name: str = "anna", clip: str = "a clip", *, owner: str | None = None, **how
) -> tuple[VoiceRecord, bool]:
    data = clip_of(clip)
    return voices.create(enrolment(name, **how), data, facts(data), owner)


def voices_in(folder: Path, **limits) -> Voices:
    return Voices.open(VoiceSettings(url=str(folder), **limits))
