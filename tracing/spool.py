"""A queue of kept traces on disk, so that neither a dead Zipkin nor a dead process loses them.

A process appends to its own segments, in a folder that it shares with others, and reads them back in order:

    <owner>.lock            held with flock for as long as the owner lives
    <owner>.<n>.spool       one trace a line; deleted once all of it was sent
    <owner>.<n>.sent        how many bytes of that segment were sent

A process that can take another's lock has found a dead owner, and adopts its segments. Traces that the owner had sent
and not yet noted go out twice; Zipkin merges spans of the same id. Nothing is fsynced. A killed process loses nothing,
because the kernel has the written bytes. A machine that loses power loses its last seconds.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SEGMENT_BYTES = 4 * 2**20


@dataclass(eq=False)
class _Segment:
    path: Path
    size: int  # bytes of whole lines written
    sent: int = 0  # bytes of them that were sent
    traces: int = 0  # unsent

    @property
    def sent_path(self) -> Path:
        return self.path.with_suffix(".sent")


@dataclass(frozen=True)
class Batch:
    """Traces read for sending. Pass it to `commit` once they are sent."""

    traces: list[bytes]
    length: int
    segment: _Segment | None


class TracesLost(OSError):
    """A segment was deleted or cut off from outside, as one does who wants disk space. `count`: of its unsent traces,
    those that went with it."""

    def __init__(self, count: int) -> None:
        super().__init__("a segment of the spool was deleted or cut off from outside")
        self.count = count


class Spool:
    """A queue of traces in files. Any thread may append; one thread reads and commits.

    Args:
        folder: Made with mode 0700 if it is missing.
        limit_bytes: Beyond it the oldest segment is dropped.
        segment_bytes: The size at which a new segment begins.

    Raises:
        OSError: The folder can't be made or written.
    """

    def __init__(self, folder: Path, limit_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._segment_bytes = min(segment_bytes, max(1, limit_bytes // 4))
        self._mutex = threading.Lock()
        self._segments: list[_Segment] = []
        self._number = 0
        self._file: io.FileIO | None = None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock_path = folder / f"{self.owner}.lock"
        # Locked under another name first: an adopter must never see a lock that is not held yet.
        temporary = folder / f"{self.owner}.new"
        self._lock_file = open(temporary, "x")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        os.rename(temporary, self._lock_path)

    def __len__(self) -> int:
        """Return the number of unsent traces."""
        with self._mutex:
            return sum(segment.traces for segment in self._segments)

    def append(self, line: bytes) -> int:
        """Add one trace.

        Args:
            line: A JSON list of spans, without a newline.

        Returns:
            How many traces had to go to make room.

        Raises:
            OSError: The disk refused it. Nothing of the line is left behind.
        """
        with self._mutex:
            if self._lock_file.closed:  # a line written now would have no owner
                raise OSError(errno.EBADF, "the spool is closed")
            segment, file = self._segment_for(len(line) + 1)
            written = file.write(line + b"\n")
            if written != len(line) + 1:
                file.truncate(os.fstat(file.fileno()).st_size - written)
                raise OSError(errno.ENOSPC, "No space left on device")
            segment.size += written
            segment.traces += 1
            return self._make_room()

    def read(self, most: int) -> Batch:
        """Return the oldest unsent traces of one segment, at most `most`.

        Raises:
            TracesLost: The segment was deleted or cut off from outside. The next call reads what is left.
            OSError: It can't be read now.
        """
        with self._mutex:
            segment = next((s for s in self._segments if s.traces), None)
            if segment is None:
                return Batch([], 0, None)
            start, size = segment.sent, segment.size
        lines: list[bytes] = []
        end = start
        try:
            with open(segment.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < size:
                    self._take_as_it_is(segment)
                file.seek(start)
                for line in file:
                    if len(lines) == most or end + len(line) > size:
                        break
                    lines.append(line[:-1])
                    end += len(line)
        except FileNotFoundError:
            with self._mutex:
                lost = segment.traces if segment in self._segments else 0  # or it was dropped just now to make room
                self._remove(segment)
            raise TracesLost(lost) from None
        return Batch(lines, end - start, segment)

    def _take_as_it_is(self, segment: _Segment) -> None:
        """Measure a segment anew that is shorter than what was written. All that is in it now counts as unsent.

        Raises:
            TracesLost: Always.
        """
        with self._mutex:
            data = segment.path.read_bytes()
            before, segment.traces = segment.traces, data.count(b"\n")
            segment.size, segment.sent = data.rfind(b"\n") + 1, 0
            os.truncate(segment.path, segment.size)  # the next line must not begin behind half a one
            lost = max(0, before - segment.traces) if segment in self._segments else 0
            segment.sent_path.unlink(missing_ok=True)
            if not segment.traces:
                self._remove(segment)
        raise TracesLost(lost)

    def commit(self, batch: Batch) -> None:
        """Note that a batch was sent."""
        with self._mutex:
            segment = batch.segment
            if segment is None or segment not in self._segments:  # dropped meanwhile to make room
                return
            if self._lock_file.closed:  # a sender outlived `close`: the next owner has the files, and sends them
                return
            segment.sent += batch.length
            segment.traces -= len(batch.traces)
            if segment.sent < segment.size:
                with suppress(OSError):  # on a full disk: without the note these go out twice after a crash, no worse
                    segment.sent_path.write_text(str(segment.sent))
            elif self._file is not None and segment is self._current:
                self._file.truncate(0)  # O_APPEND: the next line starts at 0; cheaper than a new file a trace
                segment.size = segment.sent = 0
                segment.sent_path.unlink(missing_ok=True)
            else:
                self._remove(segment)

    @property
    def _current(self) -> _Segment | None:
        """The segment that is being written: always the last."""
        return self._segments[-1] if self._file is not None else None

    def _segment_for(self, length: int) -> tuple[_Segment, io.FileIO]:
        """The segment to append to, and its file: a new one if the last is full, adopted, or gone."""
        current = self._current
        if (
            self._file is not None
            and current is not None
            and (current.size == 0 or current.size + length <= self._segment_bytes)
        ):
            return current, self._file
        path = self._next_path()
        file = open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o600), "ab", buffering=0)
        if self._file is not None:
            self._file.close()
        self._file = file
        self._segments.append(_Segment(path, 0))
        return self._segments[-1], file

    def _next_path(self) -> Path:
        self._number += 1
        return self._folder / f"{self.owner}.{self._number:08d}.spool"

    def _make_room(self) -> int:
        lost = 0
        while len(self._segments) > 1 and sum(s.size for s in self._segments) > self._limit:
            lost += self._segments[0].traces
            self._remove(self._segments[0])
        return lost

    def _remove(self, segment: _Segment) -> None:
        if self._file is not None and segment is self._current:
            self._file.close()
            self._file = None
        self._segments[:] = [other for other in self._segments if other is not segment]
        segment.path.unlink(missing_ok=True)
        segment.sent_path.unlink(missing_ok=True)

    def adopt(self) -> int:
        """Take over the spools of processes that are gone. Returns how many traces that adopted."""
        adopted = 0
        for lock_path in sorted(self._folder.glob("*.lock")):
            if lock_path != self._lock_path:
                adopted += self._adopt_owner(lock_path)
        for path in sorted(self._folder.glob("*.spool")):  # its lock was deleted from outside
            if not (self._folder / f"{path.name.split('.')[0]}.lock").exists():
                adopted += self._adopt_segment(path)
        return adopted

    def _adopt_owner(self, lock_path: Path) -> int:
        try:
            lock = open(lock_path)
        except FileNotFoundError:  # another process was faster
            return 0
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0  # its owner lives
            adopted = 0
            for path in sorted(self._folder.glob(f"{lock_path.stem}.*.spool")):
                adopted += self._adopt_segment(path)
            lock_path.unlink(missing_ok=True)
            return adopted

    def _adopt_segment(self, path: Path) -> int:
        """Make a dead owner's segment one of ours, older than the one being written."""
        try:
            return self._adopt_unless_gone(path)
        except FileNotFoundError:  # another process was faster
            return 0

    def _adopt_unless_gone(self, path: Path) -> int:
        sent_path = path.with_suffix(".sent")
        sent = _number_in(sent_path)
        data = path.read_bytes()
        size = data.rfind(b"\n") + 1  # a process killed while writing leaves half a line
        sent = sent if sent <= size else 0  # cut off from outside: what is in it came later
        if sent >= size:
            path.unlink(missing_ok=True)
            sent_path.unlink(missing_ok=True)
            return 0
        with self._mutex:
            segment = _Segment(self._next_path(), size, sent, data.count(b"\n", sent, size))
            os.rename(path, segment.path)
            if sent_path.exists():
                os.rename(sent_path, segment.sent_path)
            self._segments.insert(max(0, len(self._segments) - 1), segment)
        return segment.traces

    def close(self) -> None:
        """Let go of the spool. Unsent traces stay, for the next process to adopt."""
        with self._mutex:
            if self._file is not None and (current := self._current) is not None:
                if not current.traces:
                    self._remove(current)
                else:
                    self._file.close()
                    self._file = None
            if not self._segments:
                self._lock_path.unlink(missing_ok=True)
            self._lock_file.close()


def _number_in(sent_path: Path) -> int:
    try:
        return int(sent_path.read_text())
    except (OSError, ValueError):  # missing, or its writer was killed over it: at worst a trace goes out twice
        return 0
