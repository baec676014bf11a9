"""The text to speak, as engines take it; free of pydantic, so that engines can use it alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Utterance:
    """The text to speak, and how.

    Attributes:
        dialect: A registry code.
        speed: A factor of the natural speed.
        seed: 0 … 2**32 - 1.
        dialect_tag: The dialect's `Dialect.tag`, for traces. None outside a request.
        live: The text is said while it comes; only where `Capabilities.live_text` is true.
        open: Of a live text: more of it will come.
    """

    text: str
    dialect: str
    mode: str = "fast"
    style_instruction: str | None = None
    prompt_text: str | None = None
    speed: float = 1.0
    seed: int = 0
    dialect_tag: str | None = None
    live: bool = False
    open: bool = False
