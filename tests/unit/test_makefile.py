"""What `make` would run, as `make --dry-run` tells it; nothing is installed."""

import os
import subprocess

import pytest

from cluster.ray_head import ROOT


def would_run(*arguments: str, **environment: str) -> str:
    # `-W`: as if that file had just changed, so that the step is due whatever is installed here.
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "-W", "requirements.txt", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("how", ["environment", "argument"])
def test_the_torch_that_is_asked_for_is_uvs_to_find(how):
    told = would_run("setup", TORCH_BACKEND="cpu") if how == "environment" else would_run("setup", "TORCH_BACKEND=cpu")
    [step] = [line for line in told.splitlines() if "--requirement requirements.txt" in line]
    assert "--torch-backend cpu" in step and "--constraint constraints.txt" in step


def test_without_a_word_of_it_uv_is_not_told():
    assert "--torch-backend" not in would_run("setup", TORCH_BACKEND="")


@pytest.mark.parametrize(
    "target, command",
    [
        ("demo", "-m cluster demo --once"),
        ("up", "-m cluster up --once"),
        ("down", "-m cluster down --once"),
        ("status", "-m cluster status --once"),
    ],
)
def test_options_go_through_to_the_launcher(target, command):
    assert command in would_run(target, "ARGS=--once")
