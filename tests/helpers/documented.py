"""Commands that documents show, taken from their code blocks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_BLOCK = re.compile(r"^```(?:sh|bash|shell|console)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ +)*(?:curl|make|python|\.venv/bin/python)\s")


def commands(document: Path) -> list[str]:
    """List the lines of code blocks that call curl, make or Python; a backslash joins lines. A remark after `#`, or
    behind three spaces or more, is left out."""
    lines = [line for block in _BLOCK.findall(document.read_text()) for line in block.replace("\\\n", " ").splitlines()]
    found = (re.split(r"\s+#\s|\s{3,}", line.strip())[0] for line in lines)
    return [command for command in found if _COMMAND.match(command + " ")]


def split(command: str) -> list[str]:
    """Split a command as a shell does, without the variables that stand before it."""
    return [word for index, word in enumerate(shlex.split(command)) if index or not re.match(r"[A-Z_]+=", word)]
