"""`python -m bench.gpu.graph`, rehearsed on the CPU with a tiny checkpoint: a whole graph, all phases."""

import json
import os
import subprocess
import sys

import pytest

from bench.overhead import STAGES
from cluster.ray_head import ROOT

pytestmark = pytest.mark.drill


def test_all_phases_run_and_every_stage_is_told_apart(tmp_path):
    out, logs = tmp_path / "graph.json", tmp_path / "logs"
    options = ["--tiny", "--device", "cpu", "--levels", "1", "3", "--seconds", "3", "--listeners", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu.graph", *options, "--listen-s", "6", "--out", str(out), "--logs", str(logs)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["errors"] == {}
    for row in (*found["phases"]["whole"], *found["phases"]["known"]):
        assert row["req_s"] > 0 and row["rtf"] > 0 and "failed" not in row
    assert [set(row["stages"]) for row in found["phases"]["whole"]] == [set(STAGES)] * 2
    assert set(found["phases"]["known"][0]["stages"]) == {"GENERATE_MEL", "VOCODE_WAV"}, "the voice is cached"
    assert [row["clients"] for row in found["phases"]["whole"]] == [1, 3]
    assert found["phases"]["first"][0]["first_p50_ms"] > 0 and found["phases"]["listeners"][0]["streams"] >= 3
    assert (logs / "serve.log").stat().st_size and (logs / "spans.jsonl").read_text().count("\n") > 3
