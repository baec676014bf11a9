"""Half an hour at full load, in which no process may grow: the verdict of `python -m bench.soak`."""

import subprocess
import sys

import pytest

from cluster.ray_head import ROOT

MINUTES = 30


@pytest.mark.soak
def test_memory_stays_flat():
    command = [sys.executable, "-m", "bench.soak", "--minutes", str(MINUTES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=(MINUTES + 10) * 60, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
