"""The arrays that an engine found in a voice's clip, as a file: one for each engine and version."""

from __future__ import annotations

import hashlib
import io

import numpy as np

from engines.contract import Arrays

#: Names of arrays must not be names of numpy's arguments.
_PREFIX = "array."


class Damaged(ValueError):
    """The file is damaged."""


def file_of(engine: tuple[str, str]) -> str:
    """Return the name of the file for an engine's (name, version), which may be any text."""
    return f"arrays-{hash_of_engine(engine)}.npz"


def hash_of_engine(engine: tuple[str, str]) -> str:
    """Return 32 hex digits for an engine's (name, version), which may be any text."""
    parts = [part.encode() for part in engine]
    return hashlib.sha256(len(parts[0]).to_bytes(8) + b"".join(parts)).hexdigest()[:32]


def pack(arrays: Arrays) -> bytes:
    """Return the arrays as the bytes of a file.

    Raises:
        ValueError: an array holds Python objects.
    """
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{_PREFIX + name: array for name, array in arrays.items()})
    return file.getvalue()


def unpack(data: bytes) -> Arrays:
    """Return the arrays in a file. Each is checked against its checksum.

    Raises:
        Damaged: the file is not what `pack` wrote.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name.removeprefix(_PREFIX): file[name] for name in file.files}
    except Exception as error:  # a damaged file makes zipfile and numpy raise nearly anything
        raise Damaged from error
