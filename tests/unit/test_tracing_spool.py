"""The spool on disk: order, limits, and who adopts what a dead process left."""

import json
import threading

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


def test_a_spool_file_deleted_by_somebody_costs_only_itself(tmp_path):
    spool, receiver, clock = Spool(tmp_path, 2**20, 300), Receiver(), Clock()
    for n in range(30):
        spool.append(trace(n))
    sorted(tmp_path.glob("*.spool"))[0].unlink()
    sending, counters = sender(spool, receiver, clock)
    settle(sending.step, clock)
    assert counters.read()["dropped_spool_damaged"] == 1
    assert receiver.numbers()[-1] == 29 and len(receiver.numbers()) > 20
