"""Zipkin's server as one jar: named by the user, cached from an earlier run, or fetched, and always checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.problem import Problem

GROUP, ARTIFACT, VERSION, CLASSIFIER = "io.zipkin", "zipkin-server", "3.6.1", "exec"
SHA256 = "d8326e0ed4f43855dba81228f688554706e52578a7c782d9a90b73f8680654a1"
MEGABYTES = 135


def cache_path(env: Mapping[str, str] = os.environ) -> Path:
    """Where the jar is kept between runs: the user's cache folder, outside the tree."""
    root = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "cosygraph" / f"{ARTIFACT}-{VERSION}-{CLASSIFIER}.jar"


def obtain(say: Callable[[str], None], env: Mapping[str, str] = os.environ,
           fetch: Callable[[Path], Path] | None = None) -> Path:
    """A jar that can be run. Raises Problem saying what was tried.

    A jar named by ZIPKIN_JAR is taken as it is: it may be another version or the user's own build. Everything else
    has to have the pinned checksum.
    """
    named = env.get("ZIPKIN_JAR")
    if named:
        if not Path(named).is_file():
            raise Problem(f"ZIPKIN_JAR names {named}, which is no file.")
        return Path(named)
    cached = cache_path(env)
    if cached.is_file():
        if sha256(cached) == SHA256:
            return cached
        say(f"the cached {cached} is damaged (wrong checksum): fetching it again")
    say(f"fetching {GROUP}:{ARTIFACT}:{VERSION} ({MEGABYTES} MB, once; kept in {cached.parent})")
    with tempfile.TemporaryDirectory(prefix="cosygraph-jar-") as scratch:
        jar = (fetch or _fetch)(Path(scratch))
        found = sha256(jar)
        if found != SHA256:
            raise Problem(f"The {ARTIFACT} {VERSION} that was fetched has the checksum {found}, but {SHA256} is the "
                          "right one: it was damaged or replaced on the way, and is not run.")
        cached.parent.mkdir(parents=True, exist_ok=True)
        # First beside its place, then by one rename: another launcher never sees half a jar.
        partial = cached.with_suffix(f".{os.getpid()}.partial")
        shutil.copyfile(jar, partial)
        partial.replace(cached)
    return cached


def _fetch(folder: Path) -> Path:
    """By jgo's Python resolver, which speaks Maven's repository format and needs neither Maven nor Java."""
    try:
        from jgo.maven import MavenContext
    except ImportError as missing:
        raise Problem("The package jgo, which fetches Zipkin's jar, is not installed: `make setup`.") from missing
    try:
        project = MavenContext(repo_cache=folder, local_repos=[], timeout=60).project(GROUP, ARTIFACT)
        return Path(project.at_version(VERSION).artifact(CLASSIFIER, "jar").resolve())
    except Exception as failure:  # jgo lets through whatever its HTTP client and XML parser raise
        raise Problem(f"{GROUP}:{ARTIFACT}:{VERSION} could not be fetched ({type(failure).__name__}): is the "
                      "network reachable from here?") from failure


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
