"""Sentences of Markdown and of docstrings, for tests of their length and their first words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_CODE_BLOCK = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_LIST_ITEM = re.compile(r"^ *(?:[-*+]|\d+\.) +")
_END = re.compile(r"(?<=[.!?:])[\"”')*_]*\s+(?=[\"“'(*_`]*[A-Z0-9`])")


def sentences(markdown: str) -> list[str]:
    """Split Markdown into sentences. Code blocks are left out; a heading, a list item and a cell of a table are units
    that end a sentence, and inline code counts as one word."""
    text = _LINK.sub(r"\1", re.sub(r"`[^`\n]*(?:\n[^`\n]+)?`", "CODE", _CODE_BLOCK.sub("", markdown)))
    return [sentence for unit in _units(text) for sentence in _END.split(unit) if words(sentence)]


def _units(text: str) -> Iterator[str]:
    """Join the lines of each paragraph and of each list item."""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        starts_unit = _LIST_ITEM.match(line) or line.lstrip().startswith(("#", "|", ">"))
        if lines and (not line.strip() or starts_unit):
            yield " ".join(lines)
            lines = []
        if line.lstrip().startswith("|"):
            yield from (cell.strip() for cell in line.strip().strip("|").split("|"))
        elif line.strip():
            lines.append(_LIST_ITEM.sub("", line).strip().lstrip("#> "))


def words(sentence: str) -> list[str]:
    """List the words of a sentence: what has a letter or a digit in it."""
    return [word for word in sentence.split() if re.search(r"\w", word)]


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the first line of each docstring in a file of Python."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield node.body[0].lineno, text.splitlines()[0]
