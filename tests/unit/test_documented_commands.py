"""Commands in documents exist: make's targets, the launcher's commands and their options."""

import re
import subprocess
import sys
from functools import cache

import pytest

from cluster.ray_head import ROOT
from tests.helpers.documented import commands, split

DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
SHOWN = [(file.name, command) for file in DOCUMENTS for command in commands(file)]


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} --help: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("file, command", [one for one in SHOWN if split(one[1])[0] == "make"])
def test_make_has_the_target(file, command):
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(word for word in split(command)[1:] if "=" not in word) <= set(targets)


@pytest.mark.parametrize("file, command", [one for one in SHOWN if "python -m cluster" in one[1]])
def test_the_launcher_has_the_command_and_its_options(file, command):
    words = split(command)[1:]
    sub = [word for word in words[2:4] if re.fullmatch(r"[a-z]+", word)][: 2 if words[2] in ("key", "graph") else 1]
    text = help_of(*words[:2], *sub)
    missing = [word for word in words if word.startswith("--") and word.partition("=")[0] not in text]
    assert not missing, f"{file}: {command}"


def test_commands_are_found():
    assert any(command.startswith("curl ") for _, command in SHOWN)
    assert any("make demo" in command for _, command in SHOWN)
