"""The spool on disk: order, limits, and who adopts what a dead process left."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from tests.helpers.export import Clock, Receiver, drain, sender, settle, trace
from tracing.spool import Spool


def test_the_spool_gives_back_what_it_was_given_over_many_segments(tmp_path):
    spool = Spool(tmp_path, 2**20, segment_bytes=300)
    given = [trace(n) for n in range(50)]
    for line in given:
        spool.append(line)
    assert len(list(tmp_path.glob("*.spool"))) > 5 and len(spool) == 50
    assert drain(spool, 3) == given and len(spool) == 0
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_the_spool_is_private(tmp_path):
    spool = Spool(tmp_path / "new", 2**20)
    spool.append(trace(1))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert next((tmp_path / "new").glob("*.spool")).stat().st_mode & 0o777 == 0o600


def test_a_full_spool_drops_its_oldest_and_says_how_many(tmp_path):
    spool = Spool(tmp_path, 2000, segment_bytes=500)
    lost = sum(spool.append(trace(n)) for n in range(100))
    left = [int(json.loads(line)[0]["traceId"], 16) for line in drain(spool)]
    assert lost + len(left) == 100 and left == list(range(lost, 100)) and len(left) > 10
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 2000


def test_a_segment_dropped_while_its_traces_are_sent_does_no_harm(tmp_path):
    spool = Spool(tmp_path, 1000, segment_bytes=250)
    for n in range(3):
        spool.append(trace(n))
    read = spool.read(1)
    for n in range(3, 60):
        spool.append(trace(n))
    before = len(spool)
    spool.commit(read)
    assert len(spool) == before == len(drain(spool))


def test_a_living_owner_is_left_alone_and_a_closed_one_adopted(tmp_path):
    first, second = Spool(tmp_path, 2**20, 300), Spool(tmp_path, 2**20, 300)
    for n in range(10):
        first.append(trace(n))
    read = first.read(4)
    first.commit(read)
    assert second.adopt() == 0 and len(second) == 0
    first.close()
    second.append(trace(99))
    assert second.adopt() == 10 - len(read.traces)
    assert second.adopt() == 0
    found = [int(json.loads(line)[0]["traceId"], 16) for line in drain(second)]
    assert sorted(found) == [*range(len(read.traces), 10), 99]
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_many_adopters_share_one_dead_spool_without_doubling_it(tmp_path):
    dead = Spool(tmp_path, 2**20, 300)
    for n in range(200):
        dead.append(trace(n))
    dead.close()
    heirs = [Spool(tmp_path, 2**20) for _ in range(6)]
    threads = [threading.Thread(target=heir.adopt) for heir in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(line for heir in heirs for line in drain(heir))
    assert found == sorted(trace(n) for n in range(200))


def test_segments_whose_lock_was_deleted_are_adopted_by_one_only(tmp_path):
    dead = Spool(tmp_path, 2**20, 300)
    for n in range(100):
        dead.append(trace(n))
    dead.close()
    next(tmp_path.glob("*.lock")).unlink()
    heirs = [Spool(tmp_path, 2**20) for _ in range(4)]
    threads = [threading.Thread(target=heir.adopt) for heir in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line for heir in heirs for line in drain(heir)) == sorted(trace(n) for n in range(100))


def test_a_closed_spool_takes_nothing_more(tmp_path):
    spool = Spool(tmp_path, 2**20)
    spool.append(trace(1))
    spool.close()
    with pytest.raises(OSError, match="closed"):
        spool.append(trace(2))
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 1


def test_half_a_line_of_a_killed_writer_is_cut_off(tmp_path):
    dead = Spool(tmp_path, 2**20)
    dead.append(trace(1))
    dead.close()
    with open(next(tmp_path.glob("*.spool")), "ab") as file:
        file.write(trace(2)[:30])
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 1
    assert drain(heir) == [trace(1)]


def test_a_damaged_mark_means_sending_again_not_losing(tmp_path):
    dead = Spool(tmp_path, 2**20)
    for n in range(3):
        dead.append(trace(n))
    dead.commit(dead.read(1))
    dead.close()
    next(tmp_path.glob("*.sent")).write_text("")
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 3


def test_a_spool_file_deleted_by_somebody_costs_only_itself_and_each_of_its_traces_is_counted(tmp_path):
    spool, receiver, clock = Spool(tmp_path, 2**20, 300), Receiver(), Clock()
    for n in range(30):
        spool.append(trace(n))
    sorted(tmp_path.glob("*.spool"))[0].unlink()
    sending, counters = sender(spool, receiver, clock)
    settle(sending.step, clock)
    assert counters.read()["dropped_spool_damaged"] == 30 - len(receiver.numbers()) > 1
    assert receiver.numbers()[-1] == 29 and len(receiver.numbers()) > 20


@pytest.mark.parametrize("sent_before", [0, 4])
def test_a_spool_file_emptied_by_somebody_costs_what_was_in_it_and_nothing_that_comes_later(tmp_path, sent_before):
    spool, receiver, clock = Spool(tmp_path, 2**20), Receiver(), Clock()
    sending, counters = sender(spool, receiver, clock, batch_traces=4)
    for n in range(10):
        spool.append(trace(n))
    if sent_before:
        sending.step()
    [file] = tmp_path.glob("*.spool")
    os.truncate(file, 0)
    for n in range(10, 13):
        spool.append(trace(n))
    settle(sending.step, clock)
    for n in range(13, 16):
        spool.append(trace(n))
    settle(sending.step, clock)
    assert receiver.numbers() == [*range(sent_before), *range(10, 16)] and len(spool) == 0
    assert counters.read()["dropped_spool_damaged"] == 10 - sent_before


@pytest.mark.parametrize("cut_at", [1, 100, 200])
def test_a_spool_file_cut_off_in_the_middle_of_a_line_costs_no_whole_one(tmp_path, cut_at):
    spool, receiver, clock = Spool(tmp_path, 2**20), Receiver(), Clock()
    sending, counters = sender(spool, receiver, clock)
    for n in range(6):
        spool.append(trace(n))
    [file] = tmp_path.glob("*.spool")
    os.truncate(file, cut_at)
    whole = cut_at // (len(trace(0)) + 1)
    settle(sending.step, clock)
    for n in range(6, 9):
        spool.append(trace(n))
    settle(sending.step, clock)
    assert receiver.numbers() == [*range(whole), 6, 7, 8] and len(spool) == 0
    assert counters.read()["dropped_spool_damaged"] == 6 - whole


def test_an_adopted_file_that_was_cut_off_keeps_what_came_after_the_cut(tmp_path):
    dead = Spool(tmp_path, 2**20)
    for n in range(9):
        dead.append(trace(n))
    dead.commit(dead.read(8))
    [file] = tmp_path.glob("*.spool")
    os.truncate(file, 0)
    dead.append(trace(9))
    dead.close()
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 1 and drain(heir) == [trace(9)]


def test_a_full_disk_does_not_hold_up_what_waits(tmp_path, monkeypatch):
    spool, receiver, clock = Spool(tmp_path, 2**20), Receiver(), Clock()
    for n in range(9):
        spool.append(trace(n))
    sending, _ = sender(spool, receiver, clock, batch_traces=2)

    def refused(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refused)
    settle(sending.step, clock)
    assert receiver.numbers() == list(range(9)) and clock.now == Clock().now


def test_a_spool_that_can_not_be_read_now_is_tried_again_after_a_pause_and_loses_nothing(tmp_path, monkeypatch):
    spool, receiver, clock = Spool(tmp_path, 2**20), Receiver(), Clock()
    spool.append(trace(1))
    sending, counters = sender(spool, receiver, clock, retry_first_s=1)

    def refused(*_args, **_more):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refused)
        assert sending.step() == 1
    assert "dropped_spool_damaged" not in counters.read()
    settle(sending.step, clock)
    assert receiver.numbers() == [1]


def test_a_sender_that_outlives_its_spool_takes_nothing_from_the_next_owner(tmp_path):
    spool = Spool(tmp_path, 2**20)
    for line in (b"[1]", b"[2]"):
        spool.append(line)
    batch = spool.read(1)
    spool.close()
    spool.commit(batch)
    heir = Spool(tmp_path, 2**20)
    assert heir.adopt() == 2 and heir.read(9).traces == [b"[1]", b"[2]"]
    spool.commit(batch)
    assert not list(tmp_path.glob(f"{spool.owner}*")), "no note is left that belongs to nobody"
    heir.close()
