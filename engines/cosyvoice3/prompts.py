"""Makes the language model's prompt: the mode's prefix, the transcript or the instruction, and the text.

| mode | before `<|endofprompt|>` | after it | speech tokens of the clip |
|---|---|---|---|
| zero-shot: a transcript is known | the assistant's sentence | transcript, then text | yes |
| cross-lingual: none is | the assistant's sentence | text | no |
| instruct: a dialect or a style is asked for | the assistant's sentence, dialect, style | text | no |

The flow continues the clip in all three, so the voice is the clip's in all of them, a dialect included. The prefix is
always ours: without it the model reads an instruction aloud, and a text may not hold one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from speech.dialects import DIALECTS
from speech.errors import UnsupportedDialect
from speech.utterance import Utterance

ZERO_SHOT, CROSS_LINGUAL, INSTRUCT = "zero_shot", "cross_lingual", "instruct"
_ASSISTANT, _END = "You are a helpful assistant.", "<|endofprompt|>"
#: Spoken without an instruction: each language in its standard form.
_STANDARD = frozenset(("zh-CN", "en-US", "ja-JP", "ko-KR", "de-DE", "es-ES", "fr-FR", "it-IT", "ru-RU"))
#: The Chinese dialects that the model was trained to follow, asked for by name: `请用…表达。`.
_DIALECTS = frozenset(
    f"zh-{place}"
    for place in (
        "Cantonese Dongbei Gansu Guizhou Henan Hubei Hunan Jiangxi Minnan Ningxia Shanxi Shaanxi Shandong Shanghai "
        "Sichuan Tianjin Yunnan"
    ).split()
)
SPOKEN = _STANDARD | _DIALECTS
_STYLE_SENTENCES = {
    "Please say a sentence as loudly as possible.": "loud, loudly, 大声",
    "Please say a sentence in a very soft voice.": "soft, softly, quietly, 小声, 轻声",
    "请用尽可能慢地语速说一句话。": "slow, slowly, 慢, 缓慢",
    "请用尽可能快地语速说一句话。": "fast, quickly, 快, 快速",
    "请非常开心地说一句话。": "happy, happily, 开心",
    "请非常伤心地说一句话。": "sad, sadly, 伤心",
    "请非常生气地说一句话。": "angry, angrily, 生气",
}
#: A style in a single word -> the sentence the model was trained on for it. All else is passed on as it was written.
STYLES: Mapping[str, str] = MappingProxyType(
    {word: sentence for sentence, words in _STYLE_SENTENCES.items() for word in words.split(", ")}
)
_SENTENCE_ENDS = tuple("。！？.!?")


@dataclass(frozen=True)
class Prompt:
    """The model's prompt for a part of a text.

    Attributes:
        mode: zero_shot, cross_lingual or instruct.
        before: the prefix, and the transcript, which is read as already said.
        text: the text to be spoken.
        continues_clip: True if the clip's speech tokens follow it.
    """

    mode: str
    before: str
    text: str
    continues_clip: bool


def prompt(utterance: Utterance, text: str, transcript: str | None = None) -> Prompt:
    """Make the prompt for `text`, a normalised part of the utterance's text.

    Args:
        utterance: the request.
        text: the part.
        transcript: the words of the reference clip; None if they are unknown.

    Raises:
        UnsupportedDialect: the model has no instruction for the dialect.
    """
    asked = instruction(utterance)
    if asked:
        return Prompt(INSTRUCT, f"{_ASSISTANT} {asked}{_END}", text, continues_clip=False)
    if transcript:
        return Prompt(ZERO_SHOT, f"{_ASSISTANT}{_END}{transcript}", text, continues_clip=True)
    return Prompt(CROSS_LINGUAL, f"{_ASSISTANT}{_END}", text, continues_clip=False)


def instruction(utterance: Utterance) -> str:
    """Return a sentence for the dialect, then one for the style; empty without either. Raises as `prompt`."""
    dialect = DIALECTS.find(utterance.dialect)
    if dialect.code not in SPOKEN:
        raise UnsupportedDialect(
            f"{dialect.english_name} ({dialect.code}) can't be spoken by CosyVoice3: it knows no "
            f"instruction for it. It speaks {', '.join(sorted(SPOKEN))}.",
            param="dialect",
        )
    sentences = [f"请用{dialect.name}表达。"] if dialect.code in _DIALECTS else []
    if utterance.mode == "instruct" and utterance.style_instruction:
        sentences.append(_style(utterance.style_instruction))
    return "".join(sentences)


def _style(words: str) -> str:
    words = words.strip()
    known = STYLES.get(words.lower().rstrip("。.!！"))
    if known:
        return known
    if words.endswith(_SENTENCE_ENDS):
        return words
    return f"{words}{'.' if words[-1].isascii() else '。'}"
