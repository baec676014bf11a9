"""A request for speech as the client sends it: plain form fields in, one checked `Utterance` out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from speech.dialects import DIALECTS, Dialect, Registry
from speech.errors import InvalidInput
from speech.text import check_instruction, check_text, check_transcript

MODES = ("fast", "instruct")
FIELDS = ("text", "dialect", "mode", "style_instruction", "prompt_text", "speed", "seed")
SPEED_RANGE = (0.5, 2.0)
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Utterance:
    """What is to be said, and how. `dialect` is a registry code, `speed` a factor, `seed` 0 … 2**32 - 1."""

    text: str
    dialect: str
    mode: str = "fast"
    style_instruction: str | None = None
    prompt_text: str | None = None
    speed: float = 1.0
    seed: int = 0


def parse(fields: Mapping[str, str], registry: Registry = DIALECTS) -> tuple[Utterance, Dialect]:
    """Check form fields. Raises InvalidInput whose `param` names the field; the client's text is never echoed."""
    for name in fields:
        if name not in FIELDS:
            raise _unknown_field(name)
    dialect = registry.find(fields.get("dialect"))
    mode = _mode(fields.get("mode"))
    utterance = Utterance(
        text=check_text(fields.get("text", "")),
        dialect=dialect.code,
        mode=mode,
        style_instruction=_instruction(fields.get("style_instruction"), mode),
        prompt_text=check_transcript(fields["prompt_text"]) if fields.get("prompt_text") else None,
        speed=_speed(fields.get("speed")),
        seed=_seed(fields.get("seed")),
    )
    return utterance, dialect


def _unknown_field(name: str) -> InvalidInput:
    near = get_close_matches(name, (*FIELDS, "prompt_audio"), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return InvalidInput(f"The form has a field that is not known.{hint} Known fields: prompt_audio, "
                        f"{', '.join(FIELDS)}.", param=near[0] if near else None, code="field_unknown")


def _mode(value: str | None) -> str:
    if not value:
        return "fast"
    if value not in MODES:
        raise InvalidInput("The field 'mode' must be 'fast' (3s极速复刻) or 'instruct' (自然语言控制).",
                           param="mode", code="mode_unknown")
    return value


def _instruction(value: str | None, mode: str) -> str | None:
    given = bool(value and value.strip())
    if mode == "instruct":
        if not given:
            raise InvalidInput("mode=instruct needs the field 'style_instruction', for example 'speak slowly' or "
                               "'兴奋地说'; without one, use mode=fast.", param="style_instruction",
                               code="instruction_missing")
        return check_instruction(value)
    if given:
        # Dropping it silently would sound like an instruction that does not work.
        raise InvalidInput("The field 'style_instruction' only takes effect with mode=instruct: send that mode, or "
                           "leave the instruction out.", param="style_instruction", code="instruction_without_mode")
    return None


def _speed(value: str | None) -> float:
    if value is None or value == "":
        return 1.0
    low, high = SPEED_RANGE
    try:
        speed = float(value)
    except ValueError:
        speed = math.nan
    if not low <= speed <= high:
        raise InvalidInput(f"The field 'speed' must be a number from {low:g} to {high:g}; 1 is the natural speed.",
                           param="speed", code="speed_out_of_range")
    return speed


def _seed(value: str | None) -> int:
    if value is None or value == "":
        return 0
    # int() would also take '1_000', '٣' and ' 7 '.
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= MAX_SEED):
        raise InvalidInput(f"The field 'seed' must be a whole number from 0 to {MAX_SEED}.",
                           param="seed", code="seed_out_of_range")
    return int(value)
