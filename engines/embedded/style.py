"""Parses a style instruction into the changes this engine can make: tempo, pitch and loudness.

The embedded engine has no language model that follows instructions. So an instruction is *parsed*, not guessed at:
every part of it must be a known style, a degree word, a negation of a pair (fast, loud, high) or a word that carries
no style ("please say a sentence"). Anything left over means that the instruction was not understood, and the error
lists the known styles. That is also why "not too fast" can never be taken for "fast".

It runs in the ingress, so it imports nothing heavy.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from speech.errors import InvalidInput


@dataclass(frozen=True)
class Delivery:
    """Changes of tempo, pitch and loudness, relative to the plain reading."""

    speed: float = 1.0  #: factor on tempo: 1.25 is a quarter faster
    pitch_semitones: float = 0.0  #: shift of the whole pitch curve
    energy_db: float = 0.0  #: gain


@dataclass(frozen=True)
class _Style:
    name: str  #: as shown in the list of known styles
    phrases: str  #: separated by commas
    speed: float = 1.0
    pitch: float = 0.0
    energy: float = 0.0
    opposite: str | None = None  #: `name` of the other end of a pair; only pairs can be negated


_STYLES = (
    _Style(
        "fast 快速",
        "语速快, 语速加快, 加快语速, 快速, 快语速, 急促, 飞快, 快点, 快, "
        "speed up, rapidly, rapid, quickly, quick, faster, fast, swiftly, hurriedly",
        speed=1.25,
        opposite="slow 缓慢",
    ),
    _Style(
        "slow 缓慢",
        "语速慢, 语速放慢, 放慢语速, 放慢, 缓慢, 慢速, 慢语速, 慢慢, 慢条斯理, 慢点, 慢, "
        "slow down, slowly, slower, slow, unhurriedly, unhurried",
        speed=0.8,
        opposite="fast 快速",
    ),
    _Style(
        "loud 大声",
        "提高音量, 高声, 大声, 响亮, 洪亮, 音量大, 声音大, loudly, louder, loud",
        pitch=0.5,
        energy=6.0,
        opposite="soft 轻声",
    ),
    _Style(
        "soft 轻声",
        "降低音量, 轻声细语, 轻轻, 轻声, 小声, 低声, 轻柔, 柔和, 音量小, 声音小, "
        "quietly, quieter, quiet, softly, softer, soft",
        energy=-6.0,
        opposite="loud 大声",
    ),
    _Style(
        "high-pitched 高音调",
        "高音调, 音调高, 提高音调, 声调高, 尖声, high-pitched, high pitched, high pitch, higher pitch, high voice",
        pitch=2.5,
        opposite="low-pitched 低音调",
    ),
    _Style(
        "low-pitched 低音调",
        "低音调, 音调低, 降低音调, 声调低, 低沉, "
        "low-pitched, low pitched, low pitch, lower pitch, deep voice, deep, low voice",
        pitch=-2.5,
        opposite="high-pitched 高音调",
    ),
    _Style(
        "excited 兴奋",
        "兴奋, 激动, 热情, 充满活力, "
        "excitedly, excited, excitement, enthusiastically, enthusiastic, enthusiasm, "
        "energetically, energetic",
        speed=1.12,
        pitch=1.5,
        energy=3.0,
    ),
    _Style(
        "happy 开心",
        "开心, 高兴, 快乐, 愉快, 欢快, happily, happy, happiness, cheerfully, cheerful, joyfully, joyful, joy",
        speed=1.06,
        pitch=1.2,
        energy=2.0,
    ),
    _Style(
        "sad 悲伤",
        "悲伤, 伤心, 难过, 悲痛, 忧伤, sadly, sad, sadness, sorrowfully, sorrowful, sorrow, mournfully, mournful",
        speed=0.86,
        pitch=-1.2,
        energy=-3.0,
    ),
    _Style(
        "angry 生气", "生气, 愤怒, 恼火, angrily, angry, anger, furiously, furious", speed=1.08, pitch=0.8, energy=5.0
    ),
    _Style(
        "calm 平静",
        "平静, 冷静, 镇定, 平和, 沉稳, calmly, calm, relaxed, peacefully, peaceful",
        speed=0.93,
        pitch=-0.5,
        energy=-1.0,
    ),
    _Style(
        "gentle 温柔",
        "温柔, 温和, 亲切, gently, gentle, tenderly, tender, warmly, warm",
        speed=0.93,
        pitch=0.3,
        energy=-3.0,
    ),
    _Style(
        "serious 严肃",
        "严肃, 庄重, 正式, seriously, serious, solemnly, solemn, formally, formal",
        speed=0.94,
        pitch=-1.0,
    ),
    _Style(
        "tired 疲惫",
        "疲惫, 疲倦, 无精打采, tiredly, tired, wearily, weary, exhausted",
        speed=0.84,
        pitch=-1.0,
        energy=-4.0,
    ),
)
#: factors on the strength of a style; they multiply
_DEGREES = {
    1.4: "尽可能|极其|极度|as possible|extremely|utterly".split("|"),
    1.2: "非常|十分|特别|很|超级|更加|更|very|really|much|more|so".split("|"),
    0.5: "有一点|有点|稍微|略微|稍稍|略|一点|一些|些|slightly|a little bit|a little|a bit|bit|somewhat".split("|"),
}
_NEGATIONS = (
    "不要太|不要那么|不要|别太|别那么|不能太|不太|不用太|别|not too|not so|not very|don't be too|do not be too|"
    "don't speak too|do not speak too|don't talk too|do not talk too"
).split("|")
_JOINS = ("并且|而且|同时|然后|但是|但|又|并|和|与|、|,|;|.|!|~|and|but|while|also|then").split("|")
_PLAIN = (
    "请|用|以|地|得|的|着|说|讲|读|念|朗读|播报|表达|说话|一句话|这句话|这段话|话|语气|语调|语速|口吻|声音|嗓音|音量|情绪|心情|情感|感情|带|充满|来|要|你|我|把|吧|再|"
    "点|速度|尽量|地方式|方式|please|say|speak|speaking|read|talk|sound|sounding|voice|tone|manner|mood|way|style|"
    "pace|rate|tempo|speed|sentence|text|words|this|it|the|a|an|in|with|at|of|as|be|to|very much|out|"
    "aloud|like|you|are|were|if|make|use|using|person|feeling|emotion|full"
).split("|")
_DIALECT = re.compile(
    r"(普通|[广东南北西川海林建州津肃夏安]|四川|陕西|粤)[话語语]|粤语|方言|accent|dialect|mandarin|cantonese", re.I
)
_SPEED_RANGE, _PITCH_RANGE, _ENERGY_RANGE = (0.6, 1.6), (-4.0, 4.0), (-9.0, 9.0)

KNOWN = tuple(style.name for style in _STYLES)
_BY_NAME = {style.name: style for style in _STYLES}


def interpret(instruction: str) -> Delivery:
    """Return the delivery that an instruction in Chinese or English asks for; several styles add up.

    Raises:
        InvalidInput: (param `style_instruction`) a part is not understood (`instruction_unknown`), two parts
            contradict each other (`instruction_contradiction`), or it asks for a dialect (`instruction_dialect`).
    """
    text = unicodedata.normalize("NFKC", instruction).lower().replace("’", "'").replace("。", ".").strip()
    if not text:
        raise _refused("instruction_unknown", "The style instruction is empty.")
    strengths: dict[str, float] = {}
    degree, negated = 1.0, False
    position = 0
    last: str | None = None
    while position < len(text):
        kind, value, position = _next(text, position)
        if kind == "degree":
            if last is not None:  # a degree after its style: 慢一点, "as slowly as possible"
                strengths[last] *= value
            else:
                degree *= value
        elif kind == "negation":
            negated, last = True, None
        elif kind == "style":
            name, strength = (_negation_of(value), 0.5) if negated else (value, degree)
            strengths[name] = max(strength, strengths.get(name, 0.0))
            degree, negated, last = 1.0, False, name
        elif kind == "join":
            last = None
    if not strengths or negated:
        raise _refused("instruction_unknown", "The style instruction names no style that this engine knows.")
    for name in strengths:
        if _BY_NAME[name].opposite in strengths:
            raise _refused(
                "instruction_contradiction",
                f"The style instruction asks for '{name}' and for "
                f"'{_BY_NAME[name].opposite}' at once; choose one of them.",
            )
    return _combined(strengths)


def _next(text: str, position: int) -> tuple[str, Any, int]:
    """Find the longest known piece at `position`: its kind, its value, and the position of its end."""
    if text[position].isspace():
        return "space", None, position + 1
    best: tuple[str, Any, int] | None = None
    for phrase, kind, value in _LEXICON:
        end = position + len(phrase)
        if text.startswith(phrase, position) and _ends_word(text, phrase, end) and (best is None or end > best[2]):
            best = kind, value, end
    if best is None:
        if _DIALECT.search(text):
            raise _refused(
                "instruction_dialect",
                "A style instruction can't choose the dialect or accent; the field 'dialect' does.",
            )
        raise _refused(
            "instruction_unknown", "A part of the style instruction is not understood, and nothing is guessed."
        )
    return best


def _ends_word(text: str, phrase: str, end: int) -> bool:
    """Accept a Latin phrase only as whole words: `fast` is not in `breakfast` nor in `fasting`."""
    return (
        not phrase[-1].isascii()
        or not phrase[-1].isalpha()
        or end >= len(text)
        or not (text[end].isascii() and (text[end].isalpha() or text[end] in "'-"))
    )


def _negation_of(name: str) -> str:
    opposite = _BY_NAME[name].opposite
    if opposite is None:
        raise _refused(
            "instruction_unknown",
            f"The style instruction negates '{name}', which has no opposite that "
            "this engine could speak with. Say what you want instead.",
        )
    return opposite


def _combined(strengths: dict[str, float]) -> Delivery:
    speed, pitch, energy = 1.0, 0.0, 0.0
    for name, strength in strengths.items():
        style = _BY_NAME[name]
        speed *= style.speed**strength
        pitch += style.pitch * strength
        energy += style.energy * strength
    return Delivery(
        round(_clip(speed, _SPEED_RANGE), 3),
        round(_clip(pitch, _PITCH_RANGE), 2),
        round(_clip(energy, _ENERGY_RANGE), 2),
    )


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _refused(code: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{reason} This engine can vary tempo, pitch and loudness; it knows, in Chinese or English: "
        f"{', '.join(KNOWN)}, each also with a degree (非常, 稍微, very, slightly), several together, "
        "and 'not too fast'.",
        param="style_instruction",
        code=code,
    )


def _lexicon() -> list[tuple[str, str, object]]:
    entries: list[tuple[str, str, object]] = []
    for style in _STYLES:
        entries += [(phrase, "style", style.name) for phrase in style.phrases.split(", ")]
    for factor, phrases in _DEGREES.items():
        entries += [(phrase, "degree", factor) for phrase in phrases]
    entries += [(phrase, "negation", None) for phrase in _NEGATIONS]
    entries += [(phrase, "join", None) for phrase in _JOINS]
    entries += [(phrase, "plain", None) for phrase in _PLAIN]
    return entries


_LEXICON = _lexicon()
