"""Stored voices in a local folder and in an object store, as one process sees them."""

from __future__ import annotations

import json
import secrets

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from speech.errors import Conflict, InternalError, VoiceNotFound, VoiceStoreUnavailable
from tests.helpers.enrolments import CONSENT, clip_of, enrolment, facts, store
from voices import Voices, VoiceSettings
from voices.object_storage import ObjectStorage
from voices.storage import open_storage

ENGINE = ("cosyvoice3", "0.5B-2512")


@pytest.fixture(params=["folder", "memory"])
def settings(request, tmp_path) -> VoiceSettings:
    url = str(tmp_path / "voices") if request.param == "folder" else f"memory://{secrets.token_hex(8)}/voices"
    return VoiceSettings(url=url)


@pytest.fixture
def voices(settings) -> Voices:
    store = Voices.open(settings)
    assert store is not None
    return store


def refused(code, call, *args, **how):
    with pytest.raises(Conflict) as caught:
        call(*args, **how)
    assert (caught.value.code, caught.value.status, caught.value.type) == (code, 409, "conflict")
    return caught.value


def files(settings) -> list[str]:
    """All files of the store that are not empty, relative."""
    fs, root = fsspec.url_to_fs(settings.url)
    return [path.removeprefix(root + "/") for path, about in fs.find(root, detail=True).items() if about["size"]]


def test_a_stored_voice_is_found_by_name_and_by_id_and_by_other_processes(voices, settings):
    record, created = store(voices, "anna", transcript="good morning", owner="load-test")
    assert created and record.id.startswith("voice_")
    for process in (voices, Voices.open(settings)):
        assert process.find("anna") == process.find(record.id) == record
        assert process.all() == [record]
        assert process.clip(record.id) == clip_of("a clip")


def test_what_is_shown(settings):
    voices = Voices(open_storage(settings), settings, now=lambda: 1764109200.9)
    record, _ = store(voices, "安娜", dialect="zh-Sichuan", transcript="secret words", owner="load-test")
    assert record.public() == {
        "id": record.id,
        "object": "audio.voice",
        "name": "安娜",
        "dialect": "zh-Sichuan",
        "language": "zh",
        "created_at": 1764109200,
        "consent": {"agreed": CONSENT, "at": "2025-11-25T22:20:00Z"},
        "has_transcript": True,
        "clip": {"seconds": 5.2, "sample_rate": 24000, "format": "wav", "bytes": 6000},
        "fit": None,
    }
    assert json.loads(json.dumps(record.public())) == record.public()
    assert store(voices, "bert", "another")[0].public()["has_transcript"] is False
    for private in ("安娜", "secret", "cloned", "load-test"):
        assert private not in repr(record), "a record may end up in a log"
    assert voices.find("安娜").transcript == "secret words", "kept for the engine"


def test_the_same_again_is_the_same_voice(voices):
    record, _ = store(voices, "anna", transcript="hi")
    assert store(voices, "anna", transcript="hi") == (record, False)
    assert voices.all() == [record] and voices.counters()["created"] == 1


def test_the_same_content_under_another_name_is_refused(voices):
    record, _ = store(voices, "anna", owner="a-key")
    stranger = refused("voice_exists", store, voices, "bert", owner="another-key")
    assert "anna" not in stranger.message and record.id not in stranger.message
    assert record.id in refused("voice_exists", store, voices, "bert", owner="a-key").message
    assert [found.name for found in voices.all()] == ["anna"]


def test_another_transcript_makes_another_voice_and_needs_another_name(voices):
    store(voices, "anna", transcript="hi")
    refused("voice_name_taken", store, voices, "anna", transcript="hello")
    refused("voice_name_taken", store, voices, "anna", transcript=None)
    assert store(voices, "bert", transcript="hello")[1] and store(voices, "carl", transcript=None)[1]


def test_another_clip_under_the_same_name_is_refused(voices, settings):
    store(voices, "anna", "a clip")
    before = files(settings)
    refused("voice_name_taken", store, voices, "anna", "another clip")
    assert files(settings) == before, "nothing is left of what was refused"


def test_a_dialect_is_never_replaced_silently(voices):
    store(voices, "anna", dialect="en-US")
    assert refused("voice_differs", store, voices, "anna", dialect="en-GB").param == "dialect"


@pytest.mark.parametrize("limits", [{"max_voices": 2}, {"max_bytes": 13_000}])
def test_limits(settings, limits):
    voices = Voices.open(settings.model_copy(update=limits))
    store(voices, "anna", "a clip"), store(voices, "bert", "b clip")
    limit = str(next(iter(limits.values())))
    assert limit in refused("voices_full", store, voices, "carl", "c clip").message
    assert store(voices, "anna", "a clip")[1] is False, "what is there already needs no room"
    voices.delete(voices.find("anna"))
    assert store(voices, "carl", "c clip")[1]


def test_names_are_found_exactly_and_in_any_composition(voices):
    record, _ = store(voices, "r\u00e9mi")
    assert voices.find("re\u0301mi") == record
    for other in ("R\u00e9mi", "remi", "r\u00e9mi ", "", "voice_", record.id.upper(), record.id[:-1], "x" * 100_000):
        with pytest.raises(VoiceNotFound) as caught:
            voices.find(other)
        assert (caught.value.status, caught.value.type, caught.value.param) == (404, "voice_not_found", "voice")


def test_a_deleted_voice_leaves_nothing(voices, settings):
    other = Voices.open(settings)
    record, _ = store(voices, "anna", "a clip", transcript="said words")
    voices.keep_arrays(record.id, ENGINE, {"x": np.ones(3)})
    assert other.find("anna") == record
    voices.delete(record)
    for gone in (
        lambda: other.find("anna"),
        lambda: other.find(record.id),
        lambda: other.clip(record.id),
        lambda: other.arrays(record.id, ENGINE),
        lambda: other.keep_arrays(record.id, ENGINE, {}),
        lambda: other.delete(record),
    ):
        with pytest.raises(VoiceNotFound):
            gone()
    assert other.all() == []
    left = files(settings)
    assert len(left) == 1 and left[0].startswith("catalog/"), "the list, and nothing else that is not empty"
    fs, root = fsspec.url_to_fs(settings.url)
    assert b"anna" not in fs.cat_file(f"{root}/{left[0]}")
    again, created = store(other, "anna", "a clip", transcript="said words")
    assert created and again.id == record.id
    with pytest.raises(VoiceNotFound):
        voices.delete(record)  # what was stored anew since is not what was looked at
    assert other.clip(record.id) == clip_of("a clip")


def test_who_may_delete(voices):
    own, free = store(voices, "anna", owner="a-key")[0], store(voices, "bert", "b")[0]
    assert own.can_change("a-key") and own.can_change("another", admin=True)
    assert not own.can_change("another") and not own.can_change(None)
    assert free.can_change(None) and not free.can_change("a-key")


def test_arrays_are_kept_for_each_engine_and_version(voices, settings):
    record, _ = store(voices)
    arrays = {
        "embedding": np.arange(192, dtype=np.float32),
        "tokens": np.array([[1, 2]]),
        "file": np.float64(2.5),
        "allow_pickle": np.zeros(0, np.int8),
        "名": np.array(["text"]),
    }
    assert voices.arrays(record.id, ENGINE) is None
    voices.keep_arrays(record.id, ENGINE, arrays)
    found = Voices.open(settings).arrays(record.id, ENGINE)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == np.asarray(array).dtype and np.array_equal(found[name], array)
    for other in ((ENGINE[0], "2"), ("embedded", ENGINE[1]), ("cosyvoice30.5", "B-2512"), ("../../x", "/y\n")):
        assert voices.arrays(record.id, other) is None
        voices.keep_arrays(record.id, other, {"x": np.array(other)})
        assert voices.arrays(record.id, other)["x"].tolist() == list(other)
    voices.keep_arrays(record.id, ENGINE, {"embedding": np.zeros(2)})
    assert list(voices.arrays(record.id, ENGINE)) == ["embedding"], "found again, kept instead"
    with pytest.raises(ValueError):
        voices.keep_arrays(record.id, ENGINE, {"x": np.array([object()])})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-30],
        lambda data: data[:100],
        lambda data: b"\x80\x04K\x01." + data,
        lambda data: data.replace(b"\x00\x00\x80?", b"\x00\x00\x80@", 1),
        lambda data: b"PK\x03\x04" + bytes(50),
    ],
)
def test_damaged_arrays_are_taken_to_be_absent(voices, settings, caplog, damage):
    record, _ = store(voices, "anna")
    voices.keep_arrays(record.id, ENGINE, {"x": np.ones(100, np.float32)})
    fs, root = fsspec.url_to_fs(settings.url)
    (path,) = fs.glob(f"{root}/voices/*/arrays-*.npz")
    damaged = damage(good := fs.cat_file(path))
    assert damaged != good
    fs.pipe_file(path, damaged)
    assert voices.arrays(record.id, ENGINE) is None
    assert voices.counters()["arrays_damaged"] == 1
    assert record.id in caplog.text and "anna" not in caplog.text
    voices.keep_arrays(record.id, ENGINE, {"x": np.ones(3)})
    assert voices.arrays(record.id, ENGINE) is not None


@pytest.mark.parametrize("how", ["missing", "other bytes"])
def test_a_damaged_clip_is_said_to_be_damaged(voices, settings, how):
    record, _ = store(voices)
    fs, root = fsspec.url_to_fs(settings.url)
    (path,) = fs.glob(f"{root}/voices/*/clip")
    fs.rm_file(path) if how == "missing" else fs.pipe_file(path, b"x")
    with pytest.raises(InternalError) as caught:
        voices.clip(record.id)
    assert caught.value.code == "voice_damaged" and voices.counters()["clips_damaged"] == 1
    voices.delete(record)
    assert store(voices)[1], "as the message says"


@pytest.mark.parametrize(
    "damage", [b"{", b'{"format": 2, "token": "x", "voices": []}', b'{"token": "x", "voices": [{"name": "anna"}]}']
)
def test_a_damaged_list_is_never_taken_for_an_empty_one(voices, settings, caplog, damage):
    store(voices, "anna")
    fs, root = fsspec.url_to_fs(settings.url)
    fs.pipe_file(f"{root}/catalog/0000000002", damage)
    for call in (voices.all, lambda: voices.find("anna"), lambda: store(voices, "bert", "b")):
        with pytest.raises(InternalError) as caught:
            call()
        assert caught.value.code == "voice_list_damaged"
    assert "anna" not in caplog.text and "list of voices can't be read" in caplog.text


def test_a_store_that_fails_says_so_and_the_log_says_how(tmp_path, caplog):
    (tmp_path / "voices").write_text("a file where the folder should be")
    voices = Voices.open(VoiceSettings(url=str(tmp_path / "voices")))
    for call in (voices.all, lambda: voices.find("anna"), lambda: store(voices, "anna")):
        with pytest.raises(VoiceStoreUnavailable) as caught:
            call()
        assert (caught.value.status, caught.value.headers()) == (503, {"Retry-After": "5"})
    assert "NotADirectoryError" in caplog.text and "errno 20" in caplog.text
    assert str(tmp_path) not in caplog.text and "anna" not in caplog.text


def test_only_the_service_may_read_the_files(tmp_path):
    voices = Voices.open(VoiceSettings(url=str(tmp_path / "a" / "voices")))
    store(voices)
    for path in (tmp_path / "a" / "voices").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


class Forgetful(MemoryFileSystem):
    """As an imitation of S3 that doesn't know `If-None-Match`."""

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value)


class LosesAnswers(MemoryFileSystem):
    """Writes, and then says that it failed."""

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value, mode=mode)
        if mode == "create":
            raise OSError(5, "the connection broke")


def in_memory(kind) -> Voices:
    return Voices(ObjectStorage(kind(global_store=False, skip_instance_cache=True), "/store"), VoiceSettings())


def test_nothing_is_stored_where_exclusive_creation_is_ignored(caplog):
    voices = in_memory(Forgetful)
    with pytest.raises(VoiceStoreUnavailable) as caught:
        store(voices)
    assert caught.value.code == "voice_store_not_exclusive" and "lose each other's voices" in caplog.text
    assert voices.all() == []


def test_a_creation_whose_answer_was_lost_is_a_creation():
    voices = in_memory(LosesAnswers)
    record, created = store(voices)
    assert created and voices.find("anna") == record and voices.clip(record.id) == clip_of("a clip")


def test_the_enrolments_facts_are_the_callers(voices):
    data = clip_of("x")
    record, _ = voices.create(enrolment("dora"), data, facts(data), owner="a-key")
    assert record.owner == "a-key" and record.clip == facts(data)
