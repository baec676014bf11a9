"""Memory that a process writes counts, and a file that it maps does not."""

import mmap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import psutil
import pytest

from bench.measuring.memory import anonymous_bytes

SIZE = 40_000_000


def _counts(path) -> dict:
    """Count the memory of a process that does nothing else; in that of the tests anything may grow beside it."""
    process = psutil.Process()
    (path / "file").write_bytes(b"x" * SIZE)
    before, rss = anonymous_bytes(process), process.memory_info().rss
    with open(path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:: mmap.PAGESIZE].count(b"x") == -(-SIZE // mmap.PAGESIZE)
        read = anonymous_bytes(process) - before, process.memory_info().rss - rss
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE) as written:  # fresh from the kernel, and not out of a freed heap
        written[:] = b"x" * SIZE
        return {"read": read, "written": anonymous_bytes(process) - before}


def test_what_is_written_counts_and_a_mapped_file_does_not(tmp_path):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        counts = alone.submit(_counts, tmp_path).result()
    anonymous, resident = counts["read"]
    assert resident > SIZE / 2 and anonymous < SIZE / 4
    assert counts["written"] > SIZE / 2


def test_a_process_that_has_ended_is_an_error():
    process = psutil.Popen(["true"])
    process.wait()
    with pytest.raises(OSError):
        anonymous_bytes(process)
