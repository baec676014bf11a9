"""Zipkin's server as one jar: named by the user, cached from an earlier run, or fetched, and always checked.

The jar holds more than a server: the libraries in it are read here for the schema of its MySQL storage and for its
linker of dependencies, so both always fit the server that runs.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster import maven
from cluster.cli_error import CliError

GROUP, ARTIFACT, VERSION, CLASSIFIER = "io.zipkin", "zipkin-server", "3.6.1", "exec"
SHA256 = "d8326e0ed4f43855dba81228f688554706e52578a7c782d9a90b73f8680654a1"
MEGABYTES = 135


def cache_path(env: Mapping[str, str] = os.environ) -> Path:
    """Where the jar is kept between runs."""
    return maven.cache_folder(env) / _artifact().file_name


def obtain(
    say: Callable[[str], None], env: Mapping[str, str] = os.environ, fetch: Callable[[Path], Path] | None = None
) -> Path:
    """A jar that can be run. Raises Problem saying what was tried.

    A jar named by ZIPKIN_JAR is taken as it is: it may be another version or the user's own build. Everything else
    has to have the pinned checksum.
    """
    named = env.get("ZIPKIN_JAR")
    if named:
        if not Path(named).is_file():
            raise CliError(f"ZIPKIN_JAR names {named}, which is no file.")
        return Path(named)
    return maven.obtain(_artifact(), say, env, fetch, size=f"{MEGABYTES} MB")


def library(jar: Path, name: str) -> bytes:
    """The library `<name>-<version>.jar` inside a server's jar, as bytes. Problem where there is none."""
    try:
        with zipfile.ZipFile(jar) as server:
            for member in server.namelist():
                file = member.rpartition("/")[2]
                if (
                    member.startswith("BOOT-INF/lib/")
                    and file.startswith(f"{name}-")
                    and file[len(name) + 1 : len(name) + 2].isdigit()
                ):
                    return server.read(member)
    except (OSError, zipfile.BadZipFile) as failure:
        raise CliError(f"{jar} can't be read as a jar ({type(failure).__name__}).") from failure
    raise CliError(
        f"{jar} has no {name} in it: it is not the `exec` jar of {GROUP}:{ARTIFACT}. Unset ZIPKIN_JAR to "
        f"have the right one fetched (version {VERSION})."
    )


def mysql_schema(jar: Path) -> str:
    """The SQL that makes the tables of Zipkin's MySQL storage, as Zipkin ships it."""
    with zipfile.ZipFile(io.BytesIO(library(jar, "zipkin-storage-mysql-v1"))) as storage:
        return storage.read("mysql.sql").decode()


def _artifact() -> maven.Artifact:
    return maven.Artifact(GROUP, ARTIFACT, VERSION, SHA256, CLASSIFIER)
