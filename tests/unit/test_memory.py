"""Freed memory goes back to the kernel when it is told to, also where glibc was told to keep it."""

import os
import subprocess
import sys

import pytest

from cluster.ray_head import SETTINGS

PROGRAM = """
import psutil
from deployments.stages.memory import GIVE

process = psutil.Process()
blocks = [bytearray(100_000) for _ in range(2_000)]
for block in blocks:
    block[::4096] = b"x" * len(block[::4096])
full = process.memory_info().rss
del blocks
kept = process.memory_info().rss
GIVE()
assert kept > full - 50_000_000, (full, kept)
assert process.memory_info().rss < full - 150_000_000, (full, process.memory_info().rss)
"""


@pytest.mark.parametrize("give", ["give_back", "trim"])
def test_what_was_freed_is_given_back(give):
    keeping = {name: value for name, value in SETTINGS.items() if name.startswith("MALLOC_")}
    subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("GIVE", give)], env=os.environ | keeping, check=True, timeout=60
    )
