"""Checks a clip as soon as it is there, by the rules of the API: before the first request, not by it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from speech import audio
from speech.errors import InvalidInput
from speech.limits import CLIP_SECONDS
from webui import problems
from webui.client import ApiError
from webui.problems import Problem


def check(
    path: str, words: Mapping[str, str], seconds: tuple[float, float] = CLIP_SECONDS
) -> tuple[str, Problem | None]:
    """Check the clip in a file.

    Args:
        path: The file.
        words: The page's texts.
        seconds: The shortest and the longest clip that the engine takes.

    Returns:
        Its length and rate as HTML, empty where it can't be decoded, and its fault, if it has one.
    """
    facts = ""
    try:
        found = audio.read(Path(path).read_bytes(), seconds=seconds)
        facts = words["clip_facts"].format(seconds=f"{found.seconds:.1f}", khz=f"{found.rate / 1000:g}")
        audio.checked(found, seconds=seconds)
    except InvalidInput as error:
        problem = problems.of(ApiError(error.message, code=error.code, param="prompt_audio"), words)
        return (f"<p>{escape(facts)}</p>" if facts else ""), problem
    return f'<p role="status" class="good">✓ {escape(facts)}</p>', None
