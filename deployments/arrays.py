"""How an array gets from one replica to the next without passing through the ingress.

The stage that makes a large array keeps it for a while and replies with a `ArrayRef`; the ingress hands the ticket on,
and the next stage takes the array by it.

On one node the array lies in an anonymous shared memory file (memfd_create(2)) of the replica that made it, which the
next one maps through /proc: no copy, no third process, and nothing is left behind by a replica that is killed. Over
several nodes it lies in Ray's object store, and the ticket holds the reference as Ray serialises it. Ray's store would
do for both, but on two cores the three arrays of a request cost a third of the graph's throughput there
(`python -m bench.overhead`, the rows "bare arrays" and "bare actors").
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import ray
import ray.exceptions

log = logging.getLogger("ray.serve")

#: From here on an array is worth a ticket; smaller ones ride in the reply.
LARGE_BYTES = 100_000
#: How long an array waits for the next stage, which takes it as soon as it has the call, before any queueing.
HOLD_S = 10.0
#: The most that a replica keeps at a time; beyond it the oldest go.
LIMIT_BYTES = 256 * 2**20
LOOK_FOR_NODES_EVERY_S = 5.0


class InputLost(Exception):
    """The array of a ticket is gone: its replica died, or it was not fetched in time. It can be made again."""


@dataclass(frozen=True, slots=True)
class MemoryTicket:
    """An array in another process's memory file, on the same node."""

    node: str
    pid: int
    fd: int
    inode: int  #: tells the file from another one that has the same number later
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ObjectTicket:
    """An array in Ray's object store: an ObjectRef as Ray's own serialiser takes it apart."""

    ref: bytes
    owner: bytes
    status: bytes


ArrayRef = MemoryTicket | ObjectTicket
Parts = dict[str, "np.ndarray | ArrayRef"]


class ArrayStore:
    """One replica's arrays that wait to be taken. Any thread may put and take.

    Args:
        node: this node's id.
        several_nodes: whether a taker may be on another node.
    """

    def __init__(
        self,
        node: str,
        several_nodes: Callable[[], bool],
        *,
        hold_s: float = HOLD_S,
        limit_bytes: int = LIMIT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._several_nodes = several_nodes
        self._hold_s = hold_s
        self._limit = limit_bytes
        self._clock = clock
        self._kept: deque[tuple[float, int, int | ray.ObjectRef]] = deque()  # until, bytes, what
        self._bytes = 0
        self._lock = threading.Lock()

    def pack(self, arrays: Mapping[str, np.ndarray]) -> Parts:
        """Arrays as they go into a reply."""
        return {name: self.put(array) if array.nbytes >= LARGE_BYTES else array for name, array in arrays.items()}

    async def unpack(self, parts: Parts) -> dict[str, np.ndarray]:
        """Parts of a reply as arrays again, read-only where they were taken by ticket. Raises InputLost."""
        return {name: part if isinstance(part, np.ndarray) else await self.take(part) for name, part in parts.items()}

    def put(self, array: np.ndarray) -> ArrayRef:
        """Keep a copy for the next stage."""
        array = np.ascontiguousarray(array)
        if not self._several_nodes():
            try:
                return self._in_memory(array)
            except OSError as error:  # no more open files, or no memory for them
                log.warning("no shared memory (%s): the array goes through Ray's object store", error.strerror)
        return self._in_ray(array)

    def _in_memory(self, array: np.ndarray) -> MemoryTicket:
        fd = os.memfd_create("cosygraph-array", os.MFD_CLOEXEC)
        try:
            view = memoryview(array).cast("B")
            while view:
                view = view[os.write(fd, view) :]
            inode = os.fstat(fd).st_ino
        except BaseException:
            os.close(fd)
            raise
        self._keep(fd, array.nbytes)
        return MemoryTicket(self._node, os.getpid(), fd, inode, array.dtype.str, array.shape)

    def _in_ray(self, array: np.ndarray) -> ObjectTicket:
        ref = ray.put(array)
        _, owner, status = ray._private.worker.global_worker.core_worker.serialize_object_ref(ref)
        self._keep(ref, array.nbytes)
        return ObjectTicket(ref.binary(), owner, status)

    async def take(self, ticket: ArrayRef) -> np.ndarray:
        """The array, read-only. Raises InputLost."""
        if isinstance(ticket, MemoryTicket):
            return self._mapped(ticket)
        ref = ray.ObjectRef(ticket.ref, ticket.owner, "")
        ray._private.worker.global_worker.core_worker.deserialize_and_register_object_ref(
            ticket.ref, ray.ObjectRef.nil(), ticket.owner, ticket.status
        )
        try:
            return await ref
        except (ray.exceptions.ObjectLostError, ray.exceptions.ReferenceCountingAssertionError) as error:
            raise InputLost(type(error).__name__) from error

    def _mapped(self, ticket: MemoryTicket) -> np.ndarray:
        if ticket.node != self._node:
            raise InputLost("it is on another node")
        try:
            with open(f"/proc/{ticket.pid}/fd/{ticket.fd}", "rb") as file:
                if os.fstat(file.fileno()).st_ino != ticket.inode:
                    raise InputLost("its file is another one by now")
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file can't be mapped
            raise InputLost(type(error).__name__) from error
        return np.frombuffer(mapped, ticket.dtype).reshape(ticket.shape)

    def _keep(self, what: int | ray.ObjectRef, size: int) -> None:
        with self._lock:
            self._kept.append((self._clock() + self._hold_s, size, what))
            self._bytes += size
        self.tidy()

    def tidy(self) -> None:
        """Let go of what has waited long enough. Call it `HOLD_S` after a put, or an idle replica would keep it."""
        with self._lock:
            now = self._clock()
            while self._kept and (self._kept[0][0] <= now or (self._bytes > self._limit and len(self._kept) > 1)):
                _, size, what = self._kept.popleft()
                self._bytes -= size
                if isinstance(what, int):
                    os.close(what)

    def __len__(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        with self._lock:
            for _, _, what in self._kept:
                if isinstance(what, int):
                    os.close(what)
            self._kept.clear()
            self._bytes = 0


class Nodes:
    """Whether the cluster has several nodes, asked in a thread of its own: an answer may take long, or never come.

    A replica on a new node takes longer to start than the others take to notice the node.
    """

    def __init__(self, every_s: float = LOOK_FOR_NODES_EVERY_S) -> None:
        self._several = _count() > 1
        self._every_s = every_s
        threading.Thread(target=self._watch, name="nodes", daemon=True).start()

    def __call__(self) -> bool:
        return self._several

    def _watch(self) -> None:
        while True:
            time.sleep(self._every_s)
            try:
                self._several = _count() > 1
            except Exception as error:  # the control store is away; what was true last stays
                log.warning("the cluster's nodes can't be counted (%s)", type(error).__name__)


def _count() -> int:
    return sum(node["Alive"] for node in ray.nodes())
