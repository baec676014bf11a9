"""A process that dies, or sleeps, between any two steps: nothing is blocked, nothing is lost, nothing is left."""

from __future__ import annotations

import errno
import os
import shutil
import time

import numpy as np
import pytest

from speech.errors import Conflict, VoiceStoreUnavailable
from tests.helpers.enrolments import clip_of, store
from voices import Voices, VoiceSettings
from voices.folder_storage import FolderStorage
from voices.shared_list import KEPT
from voices.storage import open_storage

ENGINE = ("simulated", "1")
LATER_S = 2 * 3600


class Killed(BaseException):
    """Not an Exception: nothing that tidies up after errors may have a hand in it."""


class Dying:
    """A place whose process is killed before, or right after, its `step`th change."""

    CHANGES = ("write", "create", "remove", "remove_folder")

    def __init__(self, place, step: int, after: bool) -> None:
        self._place, self._step, self._after = place, step, after

    def __getattr__(self, name):
        call = getattr(self._place, name)
        return self._change(call) if name in self.CHANGES else call

    def _change(self, call):
        def change(*args):
            self._step -= 1
            if self._step == 0 and not self._after:
                raise Killed
            result = call(*args)
            if self._step == 0:
                raise Killed
            return result

        return change


def listed_is_whole(voices: Voices, place) -> None:
    records = voices.all()
    assert [voices.clip(record.id) for record in records] == [clip_of(record.name) for record in records]
    assert sorted(place.folders("voices")) == sorted(record.folder for record in records)
    assert sum(1 for size in place.sizes("catalog").values() if size) == 1, "no older list is left with names in it"


OPERATIONS = {
    "create": lambda voices: store(voices, "anna", "anna"),
    "delete": lambda voices: voices.delete(voices.find("bert")),
    "keep": lambda voices: voices.keep_arrays(voices.find("bert").id, ENGINE, {"x": np.ones(3)}),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("where", ["folder", "memory"])
def test_killed_at_any_step(tmp_path, where, operation, after):
    died = 0
    for step in range(1, 20):
        url = str(tmp_path / str(step)) if where == "folder" else f"memory://{tmp_path.name}/{after}/{step}"
        settings = VoiceSettings(url=url)
        place = open_storage(settings)
        store(Voices(place, settings), "bert", "bert")
        place.create("catalog/9999999999.x", b"not ours")  # an object store's own try is done now, and is no step
        place.remove("catalog/9999999999.x")
        dying = Voices(Dying(place, step, after), settings)
        dying._sweeper.is_due()
        try:
            OPERATIONS[operation](dying)
        except Killed:
            died += 1
        else:
            break
        later = Voices(place, settings, now=lambda: time.time() + LATER_S)
        listed_is_whole(later, place)
        if all(record.name != "anna" for record in later.all()):
            assert store(later, "anna", "other words")[1], "a name that nobody has is free"
            later.delete(later.find("anna"))
        store(later, "anna", "anna"), store(later, "bert", "bert")
        assert [record.name for record in later.all()] in (["anna", "bert"], ["bert", "anna"])
        listed_is_whole(later, place)
    assert died == {"create": 3, "delete": 3, "keep": 1}[operation]


def test_a_folder_that_somebody_may_still_be_writing_is_left_alone(tmp_path):
    settings = VoiceSettings(url=str(tmp_path))
    place = open_storage(settings)
    with pytest.raises(Killed):
        store(Voices(Dying(place, 2, False), settings))
    (tmp_path / "tmp" / "half").write_bytes(b"half")
    (tmp_path / "voices" / "somebody's").mkdir()
    assert Voices(place, settings).sweep() == 0
    assert len(place.folders("voices")) == 2 and (tmp_path / "tmp" / "half").exists()
    assert Voices(place, settings, now=lambda: time.time() + LATER_S).sweep() == 1
    assert place.folders("voices") == ["somebody's"] and not (tmp_path / "tmp" / "half").exists()


class Asleep:
    """A place whose process falls asleep with its first new list in hand, while others do `meanwhile`."""

    def __init__(self, place, meanwhile) -> None:
        self._place, self._meanwhile = place, meanwhile

    def __getattr__(self, name):
        return getattr(self._place, name)

    def create(self, path, data):
        if meanwhile := self._meanwhile:
            self._meanwhile = None
            meanwhile()
        return self._place.create(path, data)


@pytest.mark.parametrize("changes", [1, 2, KEPT - 2, KEPT - 1, KEPT, KEPT + 1, 3 * KEPT])
def test_a_change_that_others_have_long_passed_is_decided_anew(tmp_path, changes):
    settings = VoiceSettings(url=str(tmp_path))
    place = open_storage(settings)
    others = Voices(place, settings)

    def meanwhile():
        for n in range(changes):
            store(others, f"name{n}", f"clip{n}")

    slow = Voices(Asleep(place, meanwhile), settings)
    record, created = store(slow, "anna", "anna")
    assert created and slow.counters()["contended"] == 1
    assert {found.name for found in others.all()} == {"anna", *(f"name{n}" for n in range(changes))}
    store(others, "last", "last")
    assert others.find("anna") == record
    numbers = [int(name) for name in place.sizes("catalog")]
    assert len(numbers) <= KEPT and min(numbers) > max(numbers) - KEPT


def test_a_name_that_was_taken_meanwhile_is_refused_and_leaves_nothing(tmp_path):
    settings = VoiceSettings(url=str(tmp_path))
    place = open_storage(settings)
    others = Voices(place, settings)
    slow = Voices(Asleep(place, lambda: store(others, "anna", "theirs")), settings)
    with pytest.raises(Conflict):
        store(slow, "anna", "ours")
    assert place.folders("voices") == [others.find("anna").folder]


def test_the_same_voice_stored_meanwhile_is_the_same_voice(tmp_path):
    settings = VoiceSettings(url=str(tmp_path))
    place = open_storage(settings)
    others = Voices(place, settings)
    slow = Voices(Asleep(place, lambda: store(others, "anna", "anna")), settings)
    assert store(slow, "anna", "anna") == (others.find("anna"), False)
    listed_is_whole(others, place)


def test_a_process_that_was_asleep_for_an_hour_does_not_list_a_clip_that_was_swept(tmp_path):
    settings = VoiceSettings(url=str(tmp_path))
    place, clock = open_storage(settings), [1e9]
    others = Voices(place, settings, now=lambda: clock[0])

    def meanwhile():
        clock[0] += LATER_S
        others.sweep()
        store(others, "bert", "bert")

    slow = Voices(Asleep(place, meanwhile), settings, now=lambda: clock[0])
    with pytest.raises(VoiceStoreUnavailable) as caught:
        store(slow, "anna", "anna")
    assert caught.value.code == "voice_store_slow"
    listed_is_whole(others, place)


def test_arrays_of_a_voice_that_is_deleted_meanwhile_do_not_stay(tmp_path):
    settings = VoiceSettings(url=str(tmp_path))
    place = open_storage(settings)
    voices = Voices(place, settings)
    record, _ = store(voices, "anna", "anna")

    class Late:
        def __getattr__(self, name):
            return getattr(place, name)

        def write(self, path, data):
            voices.delete(record)
            place.write(path, data)

    with pytest.raises(Exception) as caught:
        Voices(Late(), settings).keep_arrays(record.id, ENGINE, {"x": np.ones(3)})
    assert caught.value.type == "voice_not_found" and place.folders("voices") == []


def test_a_deletion_that_can_not_remove_the_files_says_so_and_they_go_later(tmp_path):
    settings = VoiceSettings(url=str(tmp_path))
    place = open_storage(settings)
    record, _ = store(Voices(place, settings), "anna", "anna")

    class Stuck:
        def __getattr__(self, name):
            return getattr(place, name)

        def remove_folder(self, path):
            raise PermissionError(13, "not now")

    with pytest.raises(VoiceStoreUnavailable) as caught:
        Voices(Stuck(), settings).delete(record)
    assert caught.value.code == "voice_files_left"
    later = Voices(place, settings, now=lambda: time.time() + LATER_S)
    assert later.all() == [] and place.folders("voices") == []


def test_a_folder_goes_whole_when_another_process_removes_a_file_of_it_meanwhile(tmp_path, monkeypatch):
    storage, unlink, taken = FolderStorage(tmp_path), os.unlink, []
    for name in ("arrays", "clip", "more"):
        storage.write(f"voices/one/{name}", b"private")

    def another_was_first(path, *args, **kwargs):
        unlink(path, *args, **kwargs)
        if not taken:
            taken.append(path)
            unlink(path, *args, **kwargs)  # raises FileNotFoundError

    monkeypatch.setattr(os, "unlink", another_was_first)
    storage.remove_folder("voices/one")
    assert taken and not (tmp_path / "voices/one").exists()
    storage.remove_folder("voices/one")  # it is gone: no error


def test_a_new_folder_is_on_the_disk_when_the_call_returns(tmp_path, monkeypatch):
    """Without this a list on the disk could name a clip whose folder was lost with the power."""
    synced: set[int] = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(os.fstat(file).st_ino), fsync(file)))
    storage = FolderStorage(tmp_path / "store")
    storage.write("voices/one/clip", b"private")
    parents = [tmp_path, tmp_path / "store", tmp_path / "store/voices", tmp_path / "store/voices/one"]
    assert {folder.stat().st_ino for folder in parents} <= synced


@pytest.mark.parametrize("call", ["replace", "link", "rmtree"])
@pytest.mark.parametrize("lost", [3, 12, 1000])
def test_who_loses_a_race_for_a_folder_tries_again(tmp_path, monkeypatch, call, lost):
    """Another process removes the folder between its making and its use, or fills it while it is removed."""
    storage, times = FolderStorage(tmp_path), iter(range(lost))
    storage.write("v/before", b"0")
    module = shutil if call == "rmtree" else os
    real = getattr(module, call)

    def losing(*args):
        if next(times, None) is not None:
            if call != "rmtree":
                shutil.rmtree(tmp_path / "v", ignore_errors=True)
                raise FileNotFoundError("the folder is gone")
            raise OSError(errno.ENOTEMPTY, "somebody has put a file there")
        return real(*args)

    work = {
        "replace": lambda: storage.write("v/x", b"1"),
        "link": lambda: storage.create("v/x", b"1"),
        "rmtree": lambda: storage.remove_folder("v"),
    }[call]
    with monkeypatch.context() as patch:
        patch.setattr(module, call, losing)
        if lost == 1000:
            with pytest.raises(OSError, match=r"gone|somebody"):
                work()
        else:
            work()
    assert storage.read("v/x") == (None if call == "rmtree" or lost == 1000 else b"1")
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing half written is left"
