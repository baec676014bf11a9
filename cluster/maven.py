"""Artifacts from Maven repositories, each pinned by its checksum, fetched once and kept in the user's cache.

No Maven and no Java is needed: PyPI's `jgo` speaks the repository format. Dependencies are not resolved here; a
program of many jars is a list of all of them (`read_list`), so that what runs is what was checked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.cli_error import CliError


@dataclass(frozen=True)
class Artifact:
    """One jar of a Maven repository. `sha256` is that of the file, in hexadecimal digits."""

    group: str
    name: str
    version: str
    sha256: str
    classifier: str = ""

    @classmethod
    def of(cls, coordinate: str, sha256: str) -> Artifact:
        """From `group:name:version` or `group:name:version:classifier`. ValueError where it is neither."""
        group, name, version, *rest = coordinate.split(":")
        if len(rest) > 1:
            raise ValueError(f"{coordinate} is no group:name:version[:classifier]")
        return cls(group, name, version, sha256, rest[0] if rest else "")

    def __str__(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def file_name(self) -> str:
        return "-".join(filter(None, (self.name, self.version, self.classifier))) + ".jar"


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where jars are kept between runs: the user's cache folder, outside the tree."""
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cosygraph"


def read_list(path: Path) -> list[Artifact]:
    """The artifacts of a file with lines `sha256 group:name:version[:classifier]`; `#` begins a comment."""
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return [Artifact.of(coordinate, sha256) for sha256, coordinate in filter(None, lines)]


def obtain_all(
    artifacts: list[Artifact], say: Callable[[str], None], env: Mapping[str, str] = os.environ
) -> list[Path]:
    """The jars of a program, in the order of the list. Raises Problem as `obtain` does."""
    missing = sum(not (cache_folder(env) / artifact.file_name).is_file() for artifact in artifacts)
    if missing:
        say(f"fetching {missing} jars (once; kept in {cache_folder(env)})")
    return [obtain(artifact, lambda text: None, env) for artifact in artifacts]


def obtain(
    artifact: Artifact,
    say: Callable[[str], None],
    env: Mapping[str, str] = os.environ,
    fetch: Callable[[Path], Path] | None = None,
    size: str = "",
) -> Path:
    """The artifact's jar with the pinned checksum, from the cache or fetched. Raises Problem saying what was tried.

    `fetch` downloads it into a folder and returns its path, for tests; `size` is for the message alone.
    """
    cached = cache_folder(env) / artifact.file_name
    if cached.is_file():
        if sha256(cached) == artifact.sha256:
            return cached
        say(f"the cached {cached} is damaged (wrong checksum): fetching it again")
    say(f"fetching {artifact} ({f'{size}, ' if size else ''}once; kept in {cached.parent})")
    with tempfile.TemporaryDirectory(prefix="cosygraph-jar-") as scratch:
        jar = fetch(Path(scratch)) if fetch else _fetch(artifact, Path(scratch))
        found = sha256(jar)
        if found != artifact.sha256:
            raise CliError(
                f"The {artifact.name} {artifact.version} that was fetched has the checksum {found}, but "
                f"{artifact.sha256} is the right one: it was damaged or replaced on the way, and is not run."
            )
        cached.parent.mkdir(parents=True, exist_ok=True)
        # First beside its place, then by one rename: another launcher never sees half a jar.
        partial = cached.with_suffix(f".{os.getpid()}.partial")
        shutil.copyfile(jar, partial)
        partial.replace(cached)
    return cached


def _fetch(artifact: Artifact, folder: Path) -> Path:
    try:
        from jgo.maven import MavenContext
    except ImportError as missing:
        raise CliError("The package jgo, which fetches jars, is not installed: `make setup`.") from missing
    try:
        project = MavenContext(repo_cache=folder, local_repos=[], timeout=60).project(artifact.group, artifact.name)
        return Path(project.at_version(artifact.version).artifact(artifact.classifier, "jar").resolve())
    except Exception as failure:  # jgo lets through whatever its HTTP client and XML parser raise
        raise CliError(
            f"{artifact} could not be fetched ({type(failure).__name__}): is the network reachable from here?"
        ) from failure


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
