"""Reads a Dockerfile, and runs its steps as a script in a folder: no container engine is needed.

Paths of the image lie below the folder. Programs that would change the machine or fetch gigabytes are stand-ins, which
the caller puts first on the PATH; everything else runs for real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

STEPS = {"RUN", "COPY", "WORKDIR", "ENV", "USER", "CMD"}
OURS = ("/opt/", "/state")  #: folders of the image that steps make


@dataclass
class Stage:
    """A stage: the name of what it begins from, and its steps."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def read(path: Path) -> dict[str, Stage]:
    """Return the stages by their names.

    Raises:
        ValueError: The file has an instruction that is not known here.
    """
    stages: dict[str, Stage] = {}
    current = None
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.split()
            current = stages[name] = Stage(base)
        elif instruction and (instruction not in STEPS or current is None):
            raise ValueError(f"this instruction is not run here: {line}")
        elif instruction and current is not None:
            current.steps.append((instruction, rest.strip()))
    return stages


class Builder:
    """Runs stages below `folder`.

    Args:
        stages: As `read` returns them.
        context: The folder that COPY takes files from.
        folder: Stands for the image's root; must exist.
        environment: Of RUN steps; the Dockerfile's ENV goes over it, but not over `kept`.
        kept: Names of variables that keep the caller's value.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        context: Path,
        folder: Path,
        environment: Mapping[str, str],
        kept: frozenset[str] = frozenset(),
    ) -> None:
        self._stages, self._context, self._folder = stages, context, folder
        self.environment = dict(environment)
        self._kept = kept
        self.workdir = folder
        self.user = "root"
        self.command: list[str] = []
        self.ran: list[str] = []

    def build(self, name: str) -> None:
        """Run the stage `name`, and before it those that it begins from.

        Raises:
            AssertionError: A step fails.
        """
        stage = self._stages[name]
        if stage.base in self._stages:
            self.build(stage.base)
        for instruction, rest in stage.steps:
            getattr(self, f"_{instruction.lower()}")(rest)

    def run(self, command: list[str]) -> subprocess.CompletedProcess:
        """Run a command as in a container of the image."""
        return subprocess.run(
            command, cwd=self.workdir, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def here(self, text: str) -> str:
        """Return `text` with the image's own folders below this one's."""
        return re.sub("|".join(map(re.escape, OURS)), lambda place: f"{self._folder}{place[0]}", text)

    def _workdir(self, rest: str) -> None:
        self.workdir = Path(self.here(rest))
        self.workdir.mkdir(parents=True, exist_ok=True)

    def _env(self, rest: str) -> None:
        for name, value in re.findall(r"(\w+)=(\S+)", rest):
            if name not in self._kept:
                value = re.sub(r"\$(\w+)", lambda place: self.environment.get(place[1], ""), self.here(value))
                self.environment[name] = value

    def _user(self, rest: str) -> None:
        self.user = rest

    def _cmd(self, rest: str) -> None:
        self.command = json.loads(rest)

    def _run(self, rest: str) -> None:
        self.ran.append(rest)
        done = self.run(["bash", "-euo", "pipefail", "-c", self.here(rest)])
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        root = self._context
        into = self.workdir
        if sources[0].startswith("--from="):
            other = Builder(
                self._stages, self._context, self._folder / "stages" / sources[0].removeprefix("--from="), {}
            )
            other._folder.mkdir(parents=True)
            other.workdir = other._folder
            other.build(sources.pop(0).removeprefix("--from="))
            root = other._folder
        elif target.startswith("/"):
            into, target = self._folder, target.lstrip("/") or "."
        for source in sources:
            copy(root / source.lstrip("/"), into / target, into_folder=target.endswith(("/", ".")))


def copy(source: Path, target: Path, into_folder: bool) -> None:
    """Copy as COPY does: of a folder its content, and a file into a folder or to a name."""
    assert source.exists(), f"COPY: there is no {source}"
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    elif into_folder:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / source.name)
    else:
        shutil.copy2(source, target)


def ignored(dockerignore: Path) -> Iterator[str]:
    """Yield the names that `.dockerignore` lets through."""
    for line in dockerignore.read_text().splitlines():
        if line.startswith("!"):
            yield line[1:]


def executable(path: Path, text: str) -> None:
    """Write a program."""
    path.write_text(text)
    os.chmod(path, 0o755)
