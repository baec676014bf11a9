"""Replaces full-width letters, digits and signs by plain forms; East Asian text's own marks stay."""

from __future__ import annotations

import re

from speech.aligned_text import AlignedText

#: `\d` takes the digits of every script, and the rules' tables know ASCII's.
_OTHER_DIGIT = re.compile(r"[^\D0-9]")
_PLAIN: dict[int, int | str] = {
    code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "！，．：；？（）［］｛｝～｜"
}
_PLAIN |= {ord("～"): "~", ord("〜"): "~", ord("−"): "-", ord("‐"): "-", ord("‑"): "-", ord("￥"): "¥", ord("　"): " "}
_PLAIN |= {first + step: str(step + 1) for first in map(ord, "①❶➀➊⓵") for step in range(9)}
#: Units in one character whose compatibility form loses their meaning (m² would be m2) or is another character.
SQUARES = str.maketrans({"℃": "°C", "℉": "°F", "㎡": "m²", "㎥": "m³", "㎢": "km²", "㎠": "cm²", "㎜": "mm", "㎝": "cm",
                         "㎞": "km", "㎏": "kg", "㎎": "mg", "㏄": "mL", "㎖": "mL"})  # fmt: skip
#: Between digits a full-width colon is a clock's, a full stop a decimal's; elsewhere they end the words before them.
_INSIDE = re.compile(r"(?<=\d)[：．](?=\d)")


def plain_digits(text: str) -> str:
    """Write `８：３０` as `8:30`, `３．５％` as `3.5%`; 。，！ and the like stay, so that they end a number."""
    text = text.translate(_PLAIN).translate(SQUARES)
    return _INSIDE.sub(lambda match: ":" if match[0] == "：" else ".", text)


def ascii_digits(text: AlignedText) -> AlignedText:
    """Write the decimal digits of any script (`٣`, `३`, `３`) as `3`; ①, ² and Roman numerals are none."""
    return text.sub(_OTHER_DIGIT, lambda match: str(int(match[0])))
