"""The project's version. pyproject.toml holds it; this is the only code that reads it there."""

from __future__ import annotations

import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
UNKNOWN = "0+unknown"  #: where the code was copied without pyproject.toml, as into an image of one's own


def read(path: Path = PYPROJECT) -> str:
    """Return the version that pyproject.toml names, or `UNKNOWN` where the file is not beside the code."""
    try:
        return str(tomllib.loads(path.read_text())["project"]["version"])
    except FileNotFoundError:
        return UNKNOWN


VERSION = read()
