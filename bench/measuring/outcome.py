"""Takes what an engine's model gives for one request: a result, or an error in its place."""

from __future__ import annotations

from typing import TypeVar

from speech.errors import SpeechError

T = TypeVar("T")


def made(outcome: T | SpeechError) -> T:
    """Return a result, or raise the error in its place. A model that fails at once would look like a fast one."""
    if isinstance(outcome, SpeechError):
        raise outcome
    return outcome
