"""An array goes to a replica on another node over TCP, and to nobody else."""

import asyncio
import os
import pickle
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from deployments import array_server
from deployments.arrays import LARGE_BYTES, ArrayStore, InputLost, MemoryRef
from tests.helpers.array_taker import taken_by_another_process

ARRAY = np.arange(LARGE_BYTES * 2, dtype=np.float32).reshape(2, -1)


@pytest.fixture
def maker():
    store = ArrayStore("node-a", lambda: True)
    yield store
    store.close()


def take(ref: MemoryRef, node: str = "node-b"):
    return asyncio.run(ArrayStore(node, lambda: True).get(ref))


def test_a_taker_on_another_node_fetches_it_from_another_process(maker):
    ref = maker.put(ARRAY)
    assert len(pickle.dumps(ref)) < 350
    told = taken_by_another_process(ref, "node-b")
    assert told == f"{ARRAY.shape} float32 {ARRAY.sum(dtype='f8')} False"


def test_a_taker_on_the_same_node_maps_it_though_there_are_others(maker, monkeypatch):
    async def fetched(*_):
        raise AssertionError("it was fetched")

    ref = maker.put(ARRAY)
    monkeypatch.setattr(array_server, "fetch", fetched)
    assert np.array_equal(take(ref, "node-a"), ARRAY)


def test_one_node_has_no_server():
    store = ArrayStore("node-a", lambda: False)
    before = threading.active_count()
    ref = store.put(ARRAY)
    assert ref.address is None and threading.active_count() == before
    with pytest.raises(InputLost, match="another node"):
        take(ref)
    store.close()


@pytest.mark.parametrize("change", [{"token": b"x" * 16}, {"fd": 0}, {"fd": 9999}, {"inode": 1}])
def test_nobody_gets_what_no_reference_names(maker, change):
    ref = maker.put(ARRAY)
    with pytest.raises(InputLost):
        take(replace(ref, **change))
    assert np.array_equal(take(ref), ARRAY), "the server goes on"


def test_other_files_of_the_process_are_not_served(maker, tmp_path):
    ref = maker.put(ARRAY)
    (tmp_path / "secret").write_text("secret")
    with open(tmp_path / "secret") as file:
        with pytest.raises(InputLost):
            take(replace(ref, fd=file.fileno(), inode=os.fstat(file.fileno()).st_ino))


def test_what_was_let_go_is_lost():
    now = [0.0]
    store = ArrayStore("node-a", lambda: True, hold_s=10, clock=lambda: now[0])
    ref = store.put(ARRAY)
    now[0] = 10.0
    store.expire()
    with pytest.raises(InputLost, match="no more"):
        take(ref)
    store.close()
    with pytest.raises(InputLost, match="ConnectionRefusedError"):
        take(ref)


def test_a_maker_that_does_not_answer_costs_seconds_and_no_more(maker, monkeypatch):
    monkeypatch.setattr(array_server, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(InputLost, match="TimeoutError"):
            take(replace(maker.put(ARRAY), address=silent.getsockname()))
    assert time.monotonic() - began < 3


def test_a_maker_that_breaks_off_is_noticed(maker):
    def answer(server):
        connection, _ = server.accept()
        connection.recv(100)
        connection.sendall(b"\1half of it")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        with pytest.raises(InputLost, match="Connection"):
            take(replace(maker.put(ARRAY), address=server.getsockname()))
        thread.join()


def test_strangers_that_send_nothing_or_nonsense_do_not_stop_it(maker, monkeypatch):
    monkeypatch.setattr(array_server, "TIMEOUT_S", 1.0)
    ref = maker.put(ARRAY)
    idle = [socket.create_connection(ref.address) for _ in range(5)]
    with socket.create_connection(ref.address) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n" + b"x" * 64)
        assert stranger.recv(10) in (b"\0", b"")
    assert np.array_equal(take(ref), ARRAY)
    for one in idle:
        one.close()


def test_many_at_once_get_each_their_own(maker):
    arrays = [np.full(LARGE_BYTES // 8 + 1, number, np.float64) for number in range(40)]
    refs = [maker.put(array) for array in arrays]

    async def all_of_them():
        store = ArrayStore("node-b", lambda: True)
        return await asyncio.gather(*(store.get(ref) for ref in refs))

    for array, found in zip(arrays, asyncio.run(all_of_them()), strict=True):
        assert np.array_equal(found, array)
