"""Memory that a process writes counts, and a file that it maps does not."""

import mmap

import psutil
import pytest

from bench.measuring.memory import anonymous_bytes

SIZE = 40_000_000


def test_what_is_written_counts_and_a_mapped_file_does_not(tmp_path):
    process = psutil.Process()
    before, rss = anonymous_bytes(process), process.memory_info().rss
    (tmp_path / "file").write_bytes(b"x" * SIZE)
    with open(tmp_path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:: mmap.PAGESIZE].count(b"x") == -(-SIZE // mmap.PAGESIZE)
        assert process.memory_info().rss > rss + SIZE / 2
        assert anonymous_bytes(process) < before + SIZE / 4
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE) as written:  # fresh from the kernel, and not out of a freed heap
        written[:] = b"x" * SIZE
        assert anonymous_bytes(process) > before + SIZE / 2


def test_a_process_that_has_ended_is_an_error():
    process = psutil.Popen(["true"])
    process.wait()
    with pytest.raises(OSError):
        anonymous_bytes(process)
