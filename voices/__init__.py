"""Stored voices: a clip, what its speaker agreed to, and what engines have found in it (docs/api.md, "Voices").

Several processes may use one store at once, on one machine or on many: `catalog.py` says how they don't lose each
other's changes, `place.py` what that asks of the store. All calls are synchronous and thread-safe. Nothing here imports
Ray, OpenTelemetry or FastAPI.
"""

from voices.enrolment import Enrolment
from voices.record import ClipFacts, Consent, VoiceRecord
from voices.settings import VoiceSettings
from voices.store import Voices

__all__ = ["ClipFacts", "Consent", "Enrolment", "VoiceRecord", "Voices", "VoiceSettings"]
