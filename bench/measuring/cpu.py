"""The CPU time that the processes of a private graph take."""

from __future__ import annotations

import re

import psutil

from bench.measuring.private_graph import PrivateGraph
from cluster import processes


def cpu_s(graph: PrivateGraph) -> dict[str, float]:
    """Return the CPU seconds taken so far: by each deployment, by Serve's proxy, and by Ray's other processes."""
    found: dict[str, float] = {}
    for process in processes.family(graph.head.process):
        try:
            replica = re.match(r"ray::ServeReplica:[^:]+:([\w-]+)|ray::(ProxyActor)", " ".join(process.cmdline()))
            part = (replica[1] or replica[2]) if replica else "others"
            found[part] = found.get(part, 0.0) + sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return found
