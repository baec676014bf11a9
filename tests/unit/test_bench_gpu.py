"""`python -m bench.gpu`, rehearsed on the CPU with a tiny model, where nothing of the server is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.report import Report
from bench.gpu.requests import Lengths

ROOT = Path(__file__).resolve().parents[2]
#: not on the machine with the GPU
ABSENT = (
    "ray pydantic pydantic_core fastapi starlette uvicorn aiohttp httpx requests av soxr soundfile hibari psutil "
    "unicode_rbnf websockets"
).split()
BLOCKED = f"""
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError("not installed here: " + name, name=name)

sys.meta_path.insert(0, Absent())
sys.argv = ["bench.gpu", *sys.argv[1:]]
runpy.run_module("bench.gpu", run_name="__main__")
"""


def rehearsed(out: Path, *more: str) -> subprocess.CompletedProcess:
    options = ["--tiny", "--device", "cpu", "--levels", "1", "3", "--seconds", "0.5", "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.proof
def test_all_of_it_runs_with_nothing_of_the_server_installed(tmp_path):
    done = rehearsed(tmp_path / "gpu.json", "--profile", str(tmp_path / "trace.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["errors"] == {} and found["date"] and found["settings"]["tiny"]
    phases = found["phases"]
    same, mel, audio, measured = phases["check"]
    assert same["captured_as_eager"] == same["captured_as_cpu"] == same["rows"] and same["tokens"] > 10
    assert mel["distance"] < 1e-5 > audio["distance"] and measured["captured_as_eager"] == 4
    assert [row["rows"] for row in phases["step"]] == [1] and phases["step"][0]["captured_ms"] > 0
    for phase in ("whole", "stream"):
        assert [row["in_flight"] for row in phases[phase]] == [1, 3]
        assert all(row["req_s"] > 0 and row["p95_ms"] >= row["p50_ms"] > 0 for row in phases[phase])
        assert not any("error" in row for row in phases[phase])
    assert all(0 <= row["no_gap"] <= 1 and row["first_p50_ms"] <= row["p50_ms"] for row in phases["stream"])
    assert not any(row["new_graphs"] for phase in ("whole", "stream") for row in phases[phase])
    loaded, one, four = phases["voice"]
    assert loaded["tokenizer_runs_in"] == loaded["campplus_runs_in"] == "onnxruntime", "torch is for devices"
    assert (one["clips"], four["clips"]) == (1, 4) and 0 < one["encode_p50_ms"] <= one["encode_max_ms"]
    assert (tmp_path / "trace.json").stat().st_size > 10_000


def test_a_run_without_time_says_what_it_left_out(tmp_path):
    done = rehearsed(tmp_path / "gpu.json", "--budget", "1")
    assert done.returncode == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert (
        set(found["errors"]) == {"check", "step", "whole", "stream", "voice"} and "left out" in found["errors"]["whole"]
    )


def test_a_phase_that_fails_is_told_and_the_next_one_runs(tmp_path):
    report = Report(tmp_path / "gpu.json", 100, {})
    report.run("bad", 0, lambda: 1 / 0)
    report.run("good", 0, lambda: report.add("good", ms=1.23456))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "ZeroDivisionError" in found["errors"]["bad"] and found["phases"] == {"good": [{"ms": 1.235}]}
    report.run("long", 1000, lambda: pytest.fail("there is no time"))
    assert "left out" in report.errors["long"]


def test_requests_differ_in_every_length_and_fit_their_rows():
    lengths = Lengths()
    made = [lengths.of(seed) for seed in range(200)]
    for index, mean in enumerate((60, 250, 250)):
        each = [one[index] for one in made]
        assert len(set(each)) > 15 and abs(sum(each) / 200 - mean) < 0.05 * mean
    assert max(sum(one) for one in made) + 2 < lengths.positions
    assert lengths.of(3) == lengths.of(3)


def test_the_command_that_is_written_down_is_short():
    text = (ROOT / "bench/gpu/__init__.py").read_text()
    commands = [line.strip() for line in text.splitlines() if line.startswith("    ") and "bench.gpu" in line]
    assert len(commands) >= 3 and all(len(command) < 2000 for command in commands)
