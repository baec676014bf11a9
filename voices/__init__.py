"""Stored voices: a clip, its speaker's consent, and the arrays that engines found in it (docs/api.md, "Voices").

One noun, one file: `Voices` (store.py) is the store; `Catalog` (catalog.py) is its list of all voices, which several
processes may change at once, on one machine or on many; `Fits` (fits.py) are the voices' fits to their speakers;
`Storage` (storage.py) is the files below them, in a folder or an object store. All calls are synchronous and
thread-safe. Nothing here imports Ray, OpenTelemetry or FastAPI.
"""

from voices.enrolment import Enrolment
from voices.record import ClipFacts, Consent, VoiceRecord
from voices.settings import VoiceSettings
from voices.store import Voices

__all__ = ["ClipFacts", "Consent", "Enrolment", "VoiceRecord", "Voices", "VoiceSettings"]
