"""How an array gets from one replica to the next without passing through the ingress.

The stage that makes a large array keeps it for a while and replies with an `ArrayRef`. The ingress hands the reference
on, and the next stage gets the array by it.

The array lies in an anonymous shared memory file (memfd_create(2)) of the replica that made it. A replica on the same
node maps it through /proc: no copy, no third process, and nothing is left behind by a replica that is killed. A replica
on another node fetches it from its maker (`array_server.py`). The taker decides, for each array: no array takes the
longer way because a second node exists.

Where no memory file can be made, the array lies in Ray's object store, and the reference holds the ObjectRef as Ray
serialises it. Ray's store would do for everything, but on two cores the three arrays of a request cost a third of the
graph's throughput there (`python -m bench.overhead`, the rows "bare arrays" and "bare actors").
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import ray
import ray.exceptions

from deployments import array_server, ray_internals
from deployments.array_server import ArrayServer

log = logging.getLogger("ray.serve")

#: From here on an array travels by reference; smaller ones ride in the reply.
LARGE_BYTES = 100_000
#: How long an array waits for the next stage, which gets it as soon as it has the call, before any queueing.
HOLD_S = 10.0
#: The most that a replica keeps at a time; beyond it the oldest go.
LIMIT_BYTES = 256 * 2**20
COUNT_NODES_EVERY_S = 5.0

Array = npt.NDArray[Any]
K = TypeVar("K")


class InputLost(Exception):
    """The array behind a reference is gone: its replica died, or it was fetched too late. It can be made again."""


@dataclass(frozen=True, slots=True)
class MemoryRef:
    """A reference to an array in another process's memory file.

    Attributes:
        address: where other nodes fetch it; None where there is no other node.
        token: what they must show there.
    """

    node: str
    pid: int
    fd: int
    inode: int  #: tells the file from another one that has the same number later
    dtype: str
    shape: tuple[int, ...]
    address: tuple[str, int] | None = None
    token: bytes = b""


@dataclass(frozen=True, slots=True)
class ObjectStoreRef:
    """A reference to an array in Ray's object store: an ObjectRef as Ray's own serialiser takes it apart."""

    ref: bytes
    owner: bytes
    status: bytes


ArrayRef = MemoryRef | ObjectStoreRef
Packed = Array | ArrayRef  #: an array as it travels: itself where it is small, by reference where it is large
PackedArrays = Mapping[str, Packed]


class ArrayStore:
    """Keeps one replica's arrays until the next stage has got them. Any thread may put and get.

    Args:
        node: this node's id.
        several_nodes: whether the reader may be on another node.
        host: this node's address, on which other nodes fetch arrays.
        hold_s: seconds for which an array is kept.
        limit_bytes: most bytes to keep; beyond them the oldest arrays go.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        node: str,
        several_nodes: Callable[[], bool],
        *,
        host: str = "127.0.0.1",
        hold_s: float = HOLD_S,
        limit_bytes: int = LIMIT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._several_nodes = several_nodes
        self._host = host
        self._server: ArrayServer | None = None
        self._hold_s = hold_s
        self._limit = limit_bytes
        self._clock = clock
        self._held: deque[tuple[float, int, int | ray.ObjectRef[Any]]] = deque()  # until, bytes, file or ObjectRef
        self._bytes = 0
        self._lock = threading.Lock()

    def pack(self, array: Array) -> Packed:
        """Return an array as it goes into a reply: by reference from `LARGE_BYTES` on."""
        return self.put(array) if array.nbytes >= LARGE_BYTES else array

    def pack_all(self, arrays: Mapping[K, Array]) -> dict[K, Packed]:
        """Pack every array of a mapping."""
        return {name: self.pack(array) for name, array in arrays.items()}

    async def unpack(self, packed: Packed) -> Array:
        """Return a reply's array, read-only where it came by reference.

        Raises:
            InputLost: the array is gone.
        """
        return packed if isinstance(packed, np.ndarray) else await self.get(packed)

    async def unpack_all(self, packed: Mapping[K, Packed]) -> dict[K, Array]:
        """Unpack every array of a mapping. Raises InputLost where one is gone."""
        return {name: await self.unpack(array) for name, array in packed.items()}

    def put(self, array: Array) -> ArrayRef:
        """Keep a copy for the next stage and return the reference to it."""
        array = np.ascontiguousarray(array)
        try:
            return self._put_in_memory(array)
        except OSError as error:  # no more open files, no memory for them, or no port
            log.warning("no memory file or port (%s): the array goes through Ray's object store", error.strerror)
        return self._put_in_ray(array)

    def _put_in_memory(self, array: Array) -> MemoryRef:
        server = self._serving() if self._several_nodes() else None
        where = (server.address, server.token) if server else (None, b"")
        fd = os.memfd_create("cosygraph-array", os.MFD_CLOEXEC)
        try:
            view = memoryview(array.data).cast("B")
            while view:
                view = view[os.write(fd, view) :]
            inode = os.fstat(fd).st_ino
        except BaseException:
            os.close(fd)
            raise
        self._hold(fd, array.nbytes)
        return MemoryRef(self._node, os.getpid(), fd, inode, array.dtype.str, array.shape, *where)

    def _serving(self) -> ArrayServer:
        with self._lock:
            if self._server is None:
                self._server = ArrayServer(self._host, self._duplicate)
            return self._server

    def _duplicate(self, fd: int, inode: int) -> int | None:
        """Return another descriptor of a memory file that is still held."""
        with self._lock:
            if not any(held == fd for _, _, held in self._held) or os.fstat(fd).st_ino != inode:
                return None
            return os.dup(fd)

    def _put_in_ray(self, array: Array) -> ObjectStoreRef:
        ref = ray.put(array)
        owner, status = ray_internals.serialize_object_ref(ref)
        self._hold(ref, array.nbytes)
        return ObjectStoreRef(ref.binary(), owner, status)

    async def get(self, ref: ArrayRef) -> Array:
        """Return the array behind a reference, read-only.

        Raises:
            InputLost: the array is gone.
        """
        if isinstance(ref, MemoryRef):
            return self._map(ref) if ref.node == self._node else await self._fetch(ref)
        try:
            return cast(Array, await ray_internals.deserialize_object_ref(ref.ref, ref.owner, ref.status))
        except (ray.exceptions.ObjectLostError, ray.exceptions.ReferenceCountingAssertionError) as error:
            raise InputLost(type(error).__name__) from error

    async def _fetch(self, ref: MemoryRef) -> Array:
        if ref.address is None:  # it was made before its maker knew of a second node
            raise InputLost("it is on another node")
        dtype = np.dtype(ref.dtype)
        size = dtype.itemsize * math.prod(ref.shape)
        try:
            data = await array_server.fetch(ref.address, ref.token, ref.fd, ref.inode, size)
        except (OSError, TimeoutError) as error:
            log.warning("an array could not be fetched from another node: %s", type(error).__name__)
            raise InputLost(type(error).__name__) from error
        if data is None:
            raise InputLost("its maker holds it no more")
        data.flags.writeable = False
        return data.view(dtype).reshape(ref.shape)

    def _map(self, ref: MemoryRef) -> Array:
        try:
            with open(f"/proc/{ref.pid}/fd/{ref.fd}", "rb") as file:
                if os.fstat(file.fileno()).st_ino != ref.inode:
                    raise InputLost("its file is another one by now")
                memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file can't be mapped
            raise InputLost(type(error).__name__) from error
        return np.frombuffer(memory, ref.dtype).reshape(ref.shape)

    def _hold(self, held: int | ray.ObjectRef[Any], size: int) -> None:
        with self._lock:
            self._held.append((self._clock() + self._hold_s, size, held))
            self._bytes += size
        self.expire()

    def expire(self) -> None:
        """Let go of arrays that were held long enough.

        Call it `HOLD_S` after a put: an idle replica would keep the array otherwise.
        """
        with self._lock:
            now = self._clock()
            while self._held and (self._held[0][0] <= now or (self._bytes > self._limit and len(self._held) > 1)):
                _, size, held = self._held.popleft()
                self._bytes -= size
                if isinstance(held, int):
                    os.close(held)

    def __len__(self) -> int:
        return len(self._held)

    def close(self) -> None:
        """Let go of everything."""
        if self._server is not None:
            self._server.close()
        with self._lock:
            for _, _, held in self._held:
                if isinstance(held, int):
                    os.close(held)
            self._held.clear()
            self._bytes = 0


class Nodes:
    """Tells whether the cluster has several nodes. A thread asks Ray: an answer may take long, or never come.

    A replica on a new node takes longer to start than the others take to notice the node.
    """

    def __init__(self, every_s: float = COUNT_NODES_EVERY_S) -> None:
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
            except Exception as error:  # the control store is away; the last answer stays
                log.warning("the cluster's nodes can't be counted (%s)", type(error).__name__)


def _count() -> int:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(node["Alive"] for node in nodes)
