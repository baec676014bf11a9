"""References: an array put in one process is taken in another, and one that is gone says so."""

import asyncio
import os
import pickle

import numpy as np
import pytest

from deployments.arrays import LARGE_BYTES, ArrayStore, InputLost, MemoryRef, ObjectStoreRef
from tests.helpers.array_taker import taken_by_another_process

ARRAY = np.arange(LARGE_BYTES, dtype=np.float32).reshape(100, -1)


def take(shelf, ticket):
    return asyncio.run(shelf.get(ticket))


@pytest.fixture
def shelf():
    shelf = ArrayStore("here", lambda: False)
    yield shelf
    shelf.close()


def test_an_array_is_taken_in_another_process(shelf):
    ticket = shelf.put(ARRAY[::2])  # not contiguous
    assert len(pickle.dumps(ticket)) < 300
    told = taken_by_another_process(ticket, "here")
    assert told == f"(50, 1000) float32 {ARRAY[::2].sum(dtype='f8')} False"


def test_small_arrays_ride_along_and_large_ones_get_tickets(shelf):
    small = np.zeros(10)
    parts = shelf.pack_all({"large": ARRAY, "small": small})
    assert isinstance(parts["large"], MemoryRef) and parts["small"] is small
    found = asyncio.run(shelf.unpack_all(parts))
    assert np.array_equal(found["large"], ARRAY) and found["small"] is small


def test_what_was_taken_lives_on_when_the_shelf_lets_go(shelf):
    array = take(shelf, shelf.put(ARRAY))
    shelf.close()
    assert np.array_equal(array, ARRAY)


def test_an_array_waits_for_a_while_and_no_longer():
    now = [0.0]
    shelf = ArrayStore("here", lambda: False, hold_s=10, clock=lambda: now[0])
    before = len(os.listdir("/proc/self/fd"))
    ticket = shelf.put(ARRAY)
    now[0] = 9.9
    shelf.expire()
    assert np.array_equal(take(shelf, ticket), ARRAY)
    now[0] = 10.0
    shelf.expire()
    assert len(shelf) == 0
    with pytest.raises(InputLost):
        take(shelf, ticket)
    assert len(os.listdir("/proc/self/fd")) <= before, "no file stays open"


def test_beyond_the_limit_the_oldest_go():
    shelf = ArrayStore("here", lambda: False, limit_bytes=ARRAY.nbytes * 2)
    tickets = [shelf.put(ARRAY) for _ in range(3)]
    assert len(shelf) == 2
    with pytest.raises(InputLost):
        take(shelf, tickets[0])
    assert np.array_equal(take(shelf, tickets[2]), ARRAY)
    shelf.close()


@pytest.mark.parametrize(
    "change",
    [
        {"node": "elsewhere"},
        {"pid": 2**22 - 1},
        {"fd": 9999},
        {"inode": 1},
    ],
)
def test_a_ticket_for_what_is_not_there_says_so(shelf, change):
    ticket = shelf.put(ARRAY)
    wrong = MemoryRef(**{name: getattr(ticket, name) for name in ticket.__slots__} | change)
    with pytest.raises(InputLost):
        take(shelf, wrong)


def test_a_number_that_means_another_file_by_now_is_not_mistaken(shelf):
    ticket = shelf.put(ARRAY)
    shelf.close()
    other = os.memfd_create("other")  # takes the lowest free number, which may be the ticket's
    try:
        os.write(other, b"somebody else's voice")
        if other != ticket.fd:
            os.dup2(other, ticket.fd)
        with pytest.raises(InputLost, match="another one"):
            take(shelf, ticket)
    finally:
        for fd in {other, ticket.fd}:
            os.close(fd)


def test_without_memory_files_ray_carries_it_on_one_node_too(ray_driver, shelf, monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    ticket = shelf.put(ARRAY)
    assert isinstance(ticket, ObjectStoreRef) and np.array_equal(take(shelf, ticket), ARRAY)
