"""Processes that we start and must find again: later, from another process, or after a crash of the launcher.

Each is the leader of a session of its own, and everything it starts stays in that session, or at least inherits a
mark in its environment. A pid alone is never trusted: pids are recycled, so a leader is known by pid *and* start time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster.signals import Interrupted, held

MARK = "COSYGRAPH_PROCESS"


@dataclass(frozen=True)
class Started:
    """A process of ours, as the state file remembers it."""

    name: str
    pid: int
    start_ticks: int  #: clock ticks after boot (field 22 of /proc/pid/stat): unlike wall time it never shifts
    mark: str  #: value of the environment variable that it and its children carry
    log: str

    def as_dict(self) -> dict:
        return asdict(self)

    @property
    def alive(self) -> bool:
        return start_ticks(self.pid) == self.start_ticks


def start_ticks(pid: int) -> int | None:
    """Return when `pid` was started, in clock ticks after boot; None if it doesn't run, or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name in brackets may itself hold spaces and brackets: count the fields after the last one.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def start(
    name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Started:
    """Start `command` in a session of its own with its output in `log`. Raises OSError where it can't be started."""
    mark = uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    started = None
    try:
        with open(log, "ab") as output, held():  # cut off in the middle, it would run on, and nobody would know of it
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {}), MARK: mark},
                cwd=cwd,
                start_new_session=True,
            )
            _OURS[process.pid] = process
            started = Started(name, process.pid, start_ticks(process.pid) or 0, mark, str(log))
    except Interrupted:
        if started is not None:
            stop(started, grace_s=0)
        raise
    return started


_OURS: dict[int, subprocess.Popen] = {}  #: children of this very process, to be reaped


def exit_code(started: Started) -> int | None:
    """The exit code of a child of this process, None while it runs or where it is not ours to wait for."""
    process = _OURS.get(started.pid)
    return process.poll() if process else None


def family(started: Started) -> list[psutil.Process]:
    """Every living process of the leader's session, and those that left the session but carry its mark."""
    recycled = start_ticks(started.pid) not in (None, started.start_ticks)
    found, carries_mark = [], False
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK) == started.mark
            # A number still in use as a session's is never given to a new process, so a leader that is another
            # process now means that the whole session has ended.
            in_session = not recycled and os.getsid(process.pid) == started.pid
            if (marked or in_session) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
                carries_mark |= marked
        except (psutil.Error, OSError):
            continue
    if started.alive or carries_mark:
        return found
    # The leader is dead and no process shows our mark (Ray's workers overwrite theirs with their title): this could
    # be another program's session by now.
    return []


_KILL_ROUNDS = 5


def stop(started: Started, grace_s: float = 10.0) -> bool:
    """End the process and its family: SIGTERM to the leader, `grace_s` to comply, then SIGKILL to who is left.

    The leader alone is asked first, because it knows best in which order its own have to end; those who outlive it
    are asked one by one. Returns True where nothing had to be killed.
    """
    deadline = time.monotonic() + grace_s
    asked: set[int] = set()
    members = family(started)
    while members and time.monotonic() < deadline:
        for pid in [started.pid] if started.alive else [process.pid for process in members]:
            if pid not in asked:
                asked.add(pid)
                _signal(pid, signal.SIGTERM)
        time.sleep(0.1)
        exit_code(started)
        # Looking through every process of the machine is slow: only once those already known have ended.
        members = [process for process in members if _runs(process)] or family(started)
    complied = not members
    for _ in range(_KILL_ROUNDS):  # one that is told to end may start another first, as Serve's HAProxy manager
        if not members:
            break
        for process in members:
            _signal(process.pid, signal.SIGKILL)
        psutil.wait_procs(members, timeout=5)
        members = family(started)
    child = _OURS.pop(started.pid, None)
    if child is not None:
        child.wait(timeout=5)
    return complied


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def last_lines(log: Path | str, count: int = 15) -> str:
    """The end of a log, for an error message."""
    try:
        return "\n".join(Path(log).read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""
