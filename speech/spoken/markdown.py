"""Removes the signs of Markdown as language models write it: headings, lists, checkboxes, emphasis, links, code."""

from __future__ import annotations

import re

from speech.aligned_text import AlignedText

_TARGET = r"\((?:<[^<>\n]*>|[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+[\"'][^\"'\n]*[\"'])?\)"
#: A link's text is no pronunciation; `[R][EH1][D](…)` and `[h][ào]` are pronunciations.
_LINK = re.compile(rf"(?<!\])!?\[([^\[\]\n]*)\]{_TARGET}")
_REFERENCE = re.compile(r"(?<!\])\[([^\[\]\n]{2,})\] ?\[\d{1,3}\]")
_FOOTNOTE = re.compile(r"\[\^[\w-]{1,20}\]:?")
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)>")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n`]*$", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*([-*_=])(?:[ \t]*\1){2,}[ \t]*$", re.MULTILINE)
_TABLE_RULE = re.compile(r"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)+\|?[ \t]*$", re.MULTILINE)
_TABLE_ROW = re.compile(r"^[ \t]*\|(.+)\|[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$", re.MULTILINE)
_QUOTE = re.compile(r"^[ \t]{0,3}(?:>[ \t]?)+(?=\S)", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*(?:[-*+•‣◦▪●][ \t]+)(?:\[[ xX]\][ \t]+)?(?=\S)", re.MULTILINE)
_CHECKBOX = re.compile(r"^([ \t]*\d{1,3}[.)][ \t]+)\[[ xX]\][ \t]+", re.MULTILINE)
_EMPHASIS = (
    re.compile(r"(\*{2,3}|~~|==)(?=\S)(.+?)(?<=\S)\1"),
    re.compile(r"(?<![\w_])(_{1,3})(?=[^\s_])(.+?)(?<=[^\s_])\1(?![\w_])"),
    re.compile(r"(?<![\w*\d])(\*)(?=[^\s*])([^*\n]+?)(?<=[^\s*])\1(?![\w*])"),
    re.compile(r"(?<=[\u3040-\u9fff])(\*)(?=[^\s*])([^*\n]+?)(?<=[^\s*])\1(?=[\u3040-\u9fff])"),
    re.compile(r"(`{1,2})([^`\n]+)\1"),
)
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+.!|>~-])")
#: An escaped sign is no sign of Markdown: it is one of these, of a private-use plane, while the rules are applied.
_ASIDE = {sign: chr(0xF0000 + number) for number, sign in enumerate("\\`*_{}[]()#+.!|>~-")}
_SIGNS = {aside: sign for sign, aside in _ASIDE.items()}
_PUT_ASIDE = re.compile(f"[{''.join(_SIGNS)}]")


def plain(text: str) -> AlignedText:
    """Return the text that a page would show; line ends stay, and so does everything that is no Markdown."""
    text = AlignedText.of(text)
    if not re.search(r"[#>*_`~=|\[\\<•‣◦▪●+-]", text):
        return text
    escapes = "\\" in text and not _PUT_ASIDE.search(text)
    if escapes:
        text = text.sub(_ESCAPED, lambda match: _ASIDE[match[1]])
    for pattern in (_FENCE, _RULE, _TABLE_RULE):
        text = text.sub(pattern, "")
    text = text.sub(_TABLE_ROW, lambda match: ", ".join(cell.strip() for cell in match[1].split("|")))
    text = text.sub(_QUOTE, "")
    text = text.sub(_HEADING, r"\1")
    text = text.sub(_BULLET, "")
    text = text.sub(_CHECKBOX, r"\1")
    text = text.sub(_AUTOLINK, lambda match: match[1].removeprefix("mailto:"))
    text = text.sub(_LINK, r"\1")
    text = text.sub(_REFERENCE, r"\1")
    text = text.sub(_FOOTNOTE, "")
    for pattern in _EMPHASIS:
        text = text.sub(pattern, r"\2")
    return text.sub(_PUT_ASIDE, lambda match: _SIGNS[match[0]]) if escapes else text.sub(_ESCAPED, r"\1")
