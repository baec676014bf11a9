"""The store of voices, as one of several processes uses it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from engines.contract import Arrays
from speech.errors import (
    RETRY_AFTER_RESTART_S,
    Conflict,
    InternalError,
    SpeechError,
    VoiceNotFound,
    VoiceStoreUnavailable,
)
from voices import engine_arrays
from voices.catalog import Catalog, VoiceList
from voices.enrolment import Enrolment
from voices.fits import Fits
from voices.names import as_stored
from voices.record import ClipFacts, VoiceRecord, content_id, hash_of
from voices.rules import check_name_is_free, is_stored
from voices.settings import VoiceSettings
from voices.storage import Storage, open_storage, storage_errors
from voices.sweeper import ABANDONED_S, FOLDER, Sweeper

log = logging.getLogger(__name__)

CLIP = "clip"


class Voices:
    """The stored voices. A process sees the changes of others at its next call. `fits` are their fits.

    Every method may raise VoiceStoreUnavailable (the storage failed) and InternalError (the stored data are damaged).

    Args:
        storage: the files.
        settings: the limits of the store.
        now: the clock, in seconds since the epoch.
    """

    def __init__(self, storage: Storage, settings: VoiceSettings, now: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._settings = settings
        self._now = now
        self._catalog = Catalog(storage)
        self.fits = Fits(storage, self._catalog, now)
        self._sweeper = Sweeper(storage, self._catalog, self.fits, now)
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            (
                "created",
                "renamed",
                "deleted",
                "arrays_found",
                "arrays_absent",
                "arrays_damaged",
                "clips_damaged",
                "abandoned_removed",
            ),
            0,
        )

    @classmethod
    def open(cls, settings: VoiceSettings) -> Voices | None:
        """Open the store that the settings name; None if they name none. Nothing is read or written yet.

        Raises:
            ValueError: the driver of an object store is missing.
        """
        return None if settings.url is None else cls(open_storage(settings), settings)

    def create(
        self, enrolment: Enrolment, clip: bytes, facts: ClipFacts, owner: str | None = None
    ) -> tuple[VoiceRecord, bool]:
        """Store a voice.

        Args:
            enrolment: the checked fields.
            clip: the file as it was sent, checked by the caller.
            facts: the clip's properties.
            owner: name of the caller's key; None without keys.

        Returns:
            The record, and False if the same voice (clip, transcript, name and dialect) was stored already. Consent and
            owner are then those of the first time.

        Raises:
            Conflict: the name or the content is taken, or the store is full.
            VoiceStoreUnavailable: the voice may be stored or not; the same call again tells.
        """
        self._sweep_if_due()
        record = VoiceRecord.of(enrolment, clip, facts, owner, self._now(), secrets.token_hex(8))

        def decide(voices: VoiceList) -> VoiceList | None:
            if is_stored(record, voices, self._settings):
                return None
            if self._now() - record.created_at > ABANDONED_S / 2:
                raise VoiceStoreUnavailable(
                    "Storing the voice took far too long; try again.",
                    code="voice_store_slow",
                    retry_after_s=RETRY_AFTER_RESTART_S,
                )
            return voices.adding(record)

        voices = self._catalog.read()
        if not is_stored(record, voices, self._settings):  # a voice that would be refused is not written
            with storage_errors("writing a clip"):
                self._storage.write(f"{FOLDER}/{record.folder}/{CLIP}", clip)
            try:
                voices = self._catalog.change(decide)
            except Conflict:
                self._discard(record)
                raise
        kept = voices.by_id[record.id]
        if kept.folder == record.folder:
            self._count("created")
            return kept, True
        self._discard(record)
        return kept, False

    def find(self, name_or_id: str) -> VoiceRecord:
        """Return the voice with this id or name. Names are matched exactly, after NFC.

        Raises:
            VoiceNotFound: there is none.
        """
        wanted = as_stored(name_or_id)
        voices = self._catalog.read()
        return _found(None if wanted is None else voices.by_id.get(wanted) or voices.by_name.get(wanted))

    def all(self) -> list[VoiceRecord]:
        """Return all voices, the oldest first."""
        self._sweep_if_due()
        return list(self._catalog.read().records)

    def rename(self, record: VoiceRecord, name: str) -> VoiceRecord:
        """Give the voice another name; its id and everything else stay.

        Args:
            record: the voice.
            name: a name that `check_name` has passed.

        Returns:
            The voice as it is stored now.

        Raises:
            VoiceNotFound: it is gone, also if the same content has been stored again since.
            Conflict: another voice has the name.
        """

        def decide(voices: VoiceList) -> VoiceList | None:
            kept = _same(record, voices)
            if kept.name == name:
                return None
            check_name_is_free(name, voices)
            return voices.replacing(kept.model_copy(update={"name": name}))

        renamed = _same(record, self._catalog.change(decide))
        self._count("renamed")
        return renamed

    def want_fit(self, record: VoiceRecord) -> VoiceRecord:
        """Note that a fit of the voice is wanted, and return the voice as it is stored now.

        Raises:
            VoiceNotFound: it is gone, also if the same content has been stored again since.
            InternalError: the clip is missing or damaged.
        """
        if record.fit and record.clip_hash:
            return record
        clip = record.clip_hash or hash_of(self.clip(record.id))

        def decide(voices: VoiceList) -> VoiceList:
            return voices.replacing(_same(record, voices).model_copy(update={"fit": True, "clip_hash": clip}))

        return _same(record, self._catalog.change(decide))

    def delete(self, record: VoiceRecord) -> None:
        """Take the voice off the list, then remove its files, and its fit unless another voice has the same clip.

        Raises:
            VoiceNotFound: it is gone already, also if the same content has been stored again since.
            VoiceStoreUnavailable: with the code `voice_files_left` the voice is gone, and its files go with the next
                sweep.
        """
        self._sweep_if_due()

        def decide(voices: VoiceList) -> VoiceList:
            return voices.without(_same(record, voices).id)

        self._catalog.change(decide)
        self._count("deleted")
        try:
            with storage_errors("removing a voice's files"):
                self._storage.remove_folder(f"{FOLDER}/{record.folder}")
            self.fits.forget(record)
        except VoiceStoreUnavailable as error:
            raise VoiceStoreUnavailable(
                "The voice is deleted and can't be used any more, but its files could not be "
                "removed yet; the service tries again by itself.",
                code="voice_files_left",
            ) from error

    def clip(self, voice_id: str) -> bytes:
        """Return the clip's file as it was sent.

        Raises:
            VoiceNotFound: there is no such voice.
            InternalError: the file is missing or damaged.
        """
        record = self._by_id(voice_id)
        with storage_errors("reading a clip"):
            data = self._storage.read(f"{FOLDER}/{record.folder}/{CLIP}")
        if data is not None and content_id(data, record.transcript) == voice_id:
            return data
        if self._by_id(voice_id).folder != record.folder:  # deleted and stored again in between
            return self.clip(voice_id)
        self._count("clips_damaged")
        log.error("the stored clip of %s is %s", voice_id, "missing" if data is None else "damaged")
        raise InternalError(
            "The stored clip of this voice is missing or damaged. Delete it, and store it again.",
            param="voice",
            code="voice_damaged",
        )

    def arrays(self, voice_id: str, engine: tuple[str, str]) -> Arrays | None:
        """Return the arrays that an engine found in the clip; None if they are not stored, or damaged.

        Args:
            voice_id: the voice.
            engine: the engine's (name, version).

        Raises:
            VoiceNotFound: there is no such voice.
        """
        record = self._by_id(voice_id)
        with storage_errors("reading a voice's arrays"):
            data = self._storage.read(self._arrays_at(record, engine))
        if data is None:
            self._count("arrays_absent")
            return None
        try:
            found = engine_arrays.unpack(data)
        except engine_arrays.Damaged:
            self._count("arrays_damaged")
            log.warning("the stored arrays of %s are damaged; they are taken to be absent", voice_id)
            return None
        self._count("arrays_found")
        return found

    def keep_arrays(self, voice_id: str, engine: tuple[str, str], arrays: Arrays) -> None:
        """Store the arrays that an engine found in the clip. Earlier ones of this engine are replaced.

        Raises:
            VoiceNotFound: there is no such voice, or it was deleted meanwhile.
            ValueError: an array holds Python objects.
        """
        record = self._by_id(voice_id)
        data = engine_arrays.pack(arrays)
        with storage_errors("writing a voice's arrays"):
            self._storage.write(self._arrays_at(record, engine), data)
        kept = self._catalog.read().by_id.get(voice_id)
        if kept is None or kept.folder != record.folder:
            self._discard(record)
            raise _not_found()

    def sweep(self) -> int:
        """Remove abandoned files, and return the number of folders removed.

        Every ten minutes, a call that stores, deletes or lists does this by itself.
        """
        gone = self._sweeper.sweep()
        self._count("abandoned_removed", gone)
        return gone

    def counters(self) -> dict[str, int]:
        """Return this process's counters; `contended` are changes that another process overtook."""
        with self._lock:
            return self._counts | {"contended": self._catalog.contended}

    def _by_id(self, voice_id: str) -> VoiceRecord:
        return _found(self._catalog.read().by_id.get(voice_id))

    def _discard(self, record: VoiceRecord) -> None:
        """Remove the files of a voice that is not listed. A failure is left to the next sweep."""
        with suppress(SpeechError), storage_errors("removing files that no voice needs"):
            self._storage.remove_folder(f"{FOLDER}/{record.folder}")

    def _sweep_if_due(self) -> None:
        if self._sweeper.is_due():
            with suppress(SpeechError):  # logged; it must not fail the caller's own request
                self.sweep()

    @staticmethod
    def _arrays_at(record: VoiceRecord, engine: tuple[str, str]) -> str:
        return f"{FOLDER}/{record.folder}/{engine_arrays.file_of(engine)}"

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by


def _found(record: VoiceRecord | None) -> VoiceRecord:
    if record is None:
        raise _not_found()
    return record


def _same(record: VoiceRecord, voices: VoiceList) -> VoiceRecord:
    """Return this very enrolment as the list has it. Raises VoiceNotFound where it is gone, or was stored again."""
    kept = voices.by_id.get(record.id)
    if kept is None or kept.folder != record.folder:
        raise _not_found()
    return kept


def _not_found() -> VoiceNotFound:
    return VoiceNotFound(
        "No voice of this name or id is stored. GET /v1/audio/voices lists them all; names are matched exactly, upper "
        "and lower case included. If your client can't send another name, the operator of this service can add it to "
        "`aliases.voices`.",
        param="voice",
        code="voice_unknown",
    )
