"""Counts what a process holds in memory from within: what is in use, apart from what its allocator merely keeps.

A process's size tells little of a leak. glibc keeps what was once in use at the same time, and Ray's shared memory
counts as part of each process that has touched it. `read` runs inside of an actor, by Ray's `__ray_call__`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import Counter
from typing import Any

#: bytes, as `mallinfo2` tells them
_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


def read(actor: Any = None, ours: str = "deployments.ingress.live_") -> dict[str, Any]:
    """Read this process's memory, once its garbage is gone.

    Args:
        actor: the actor that it runs in, not used.
        ours: objects of modules whose names begin so are counted by class.

    Returns:
        `pid`; `in_use_mb`, of glibc's heap; `blocks`, of Python's allocator; `private_mb` and `shared_mb`, resident, by
        the kernel; `ours`, the number of objects by class.
    """
    gc.collect()
    told = ctypes.CDLL(None).mallinfo2
    told.restype = _Mallinfo
    heap = told()
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    counts = Counter(
        f"{type(one).__module__}.{type(one).__qualname__}"
        for one in gc.get_objects()
        if str(type(one).__module__).startswith(ours)
    )
    return {
        "pid": os.getpid(),
        "in_use_mb": round((heap.uordblks + heap.hblkhd) / 1e6, 2),
        "blocks": sys.getallocatedblocks(),
        "private_mb": _mb(status["RssAnon"]),
        "shared_mb": _mb(status["RssShmem"]),
        "ours": dict(counts),
    }


def _mb(kilobytes: str) -> float:
    return round(int(kilobytes.split()[0]) * 1024 / 1e6, 1)
