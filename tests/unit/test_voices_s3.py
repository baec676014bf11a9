"""Stored voices in an object store with S3's API, through its real driver, as several ingress replicas use it.

The server is a stand-in (tests/helpers/s3_server.py).
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from unittest import mock

import numpy as np
import pytest

from speech.errors import SpeechError, VoiceNotFound, VoiceStoreUnavailable
from tests.helpers.enrolments import clip_of, store
from tests.helpers.s3_server import CREDENTIALS, s3_server
from voices import Voices, VoiceSettings
from voices.storage import open_storage

PROCESSES, NAMES = 3, 3
ENGINE = ("simulated", "1")
NO_RETRY = {"retries": {"max_attempts": 1}, "connect_timeout": 1}
#: Imports once, in a process that has nothing else in it, and forks that.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["voices"])


@pytest.fixture(scope="module")
def server():
    with mock.patch.dict(os.environ, CREDENTIALS), s3_server() as server:
        yield server


@pytest.fixture
def settings(server) -> VoiceSettings:
    return VoiceSettings(**server.settings(secrets.token_hex(4)))


def test_one_ingress_stores_a_voice_and_another_one_speaks_with_it(settings):
    first, second = Voices.open(settings), Voices.open(settings)
    assert second.all() == []
    record, created = store(first, "anna")
    assert created and second.find("anna") == record and second.clip(record.id) == clip_of("a clip")
    second.keep_arrays(record.id, ENGINE, {"x": np.arange(5)})
    assert first.arrays(record.id, ENGINE)["x"].sum() == 10
    assert first.rename(record, "berta").name == "berta" and second.find("berta").id == record.id
    second.delete(second.find("berta"))
    with pytest.raises(VoiceNotFound):
        first.find("berta")
    assert open_storage(settings).folders("voices") == [], "and its files are gone"


def test_of_all_that_create_a_file_one_succeeds_and_the_others_change_nothing(settings):
    first, second = open_storage(settings), open_storage(settings)
    assert first.create("catalog/1", b"of the first") and not second.create("catalog/1", b"of the second")
    assert second.read("catalog/1") == b"of the first"
    assert first.create("catalog/1", b"of the first"), "a creation whose answer was lost is asked for again"


def race(settings: VoiceSettings, number: int) -> list[str]:
    """Take the same names as the other processes, with other clips."""
    os.environ.update(CREDENTIALS)  # a fork server that an earlier test started has that test's environment
    voices = Voices.open(settings)
    outcomes = []
    for name in range(NAMES):
        try:
            outcomes.append(f"{name} {'created' if store(voices, f'n{name}', f'{number} {name}')[1] else 'same'}")
        except SpeechError as error:
            outcomes.append(f"{name} {error.code}")
    return outcomes


def test_a_name_is_given_once_whatever_races(settings):
    with ProcessPoolExecutor(PROCESSES, mp_context=CONTEXT) as pool:
        runs = [pool.submit(race, settings, number) for number in range(PROCESSES)]
        results = Counter(outcome for run in as_completed(runs, timeout=120) for outcome in run.result())
    assert results == {
        f"{name} {outcome}": count
        for name in range(NAMES)
        for outcome, count in (("created", 1), ("voice_name_taken", PROCESSES - 1))
    }
    voices = Voices.open(settings)
    assert len(voices.all()) == NAMES and all(voices.clip(record.id) for record in voices.all())


def test_a_store_that_is_away_says_so(settings):
    gone = settings.model_copy(update={"options": {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": NO_RETRY}})
    with pytest.raises(VoiceStoreUnavailable):
        Voices.open(gone).all()
