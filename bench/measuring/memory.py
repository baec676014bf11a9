"""Reads the memory that a process has taken for itself."""

from __future__ import annotations

from pathlib import Path

import psutil


def anonymous_bytes(process: psutil.Process) -> int:
    """Return the bytes that the process itself has written: RssAnon of Linux (`man 5 proc_pid_status`).

    Libraries do not count, unlike in RSS and USS. Their pages become a process's own as others that map them end, and
    the kernel drops them when it likes. Where torch is loaded, 300 MB of USS come and go so.

    Raises:
        OSError: the process has ended.
    """
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            return 1024 * int(value.split()[0])
    raise OSError(f"/proc/{process.pid}/status has no RssAnon: the process has ended.")
