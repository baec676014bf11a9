"""What an engine found in a voice's clip, as a file: one for each engine and version."""

from __future__ import annotations

import hashlib
import io

import numpy as np

from engines.contract import Arrays

#: numpy's own names of arguments must not meet those of arrays.
_PREFIX = "array."


class Damaged(ValueError):
    """The file is not what was written."""


def file_of(engine: tuple[str, str]) -> str:
    """The file's name for an engine's (name, version), which may be any text."""
    parts = [part.encode() for part in engine]
    return f"arrays-{hashlib.sha256(len(parts[0]).to_bytes(8) + b''.join(parts)).hexdigest()[:32]}.npz"


def pack(arrays: Arrays) -> bytes:
    """Raises ValueError for arrays of Python objects."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{_PREFIX + name: array for name, array in arrays.items()})
    return file.getvalue()


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Raises Damaged. Each array is checked against the checksum in the file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name.removeprefix(_PREFIX): file[name] for name in file.files}
    except Exception as error:  # a damaged file makes zipfile and numpy raise nearly anything
        raise Damaged from error
