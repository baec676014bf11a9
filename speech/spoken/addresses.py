"""Writes out mail, web and IP addresses as they are said, in the words of a language."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from speech.aligned_text import AlignedText

_LABEL = r"[A-Za-z0-9](?:[\w-]{0,61}\w)?"
#: Top-level domains that people write without `www.` or `https://`; any two letters of a file name would look alike.
_DOMAINS = (
    "com|org|net|edu|gov|io|co|uk|de|fr|eu|us|cn|jp|kr|ru|es|it|nl|ch|at|tv|me|ai|dev|app|info|biz|tw|hk|ca|au|in"
)
_PATH = r"(?:[/?#](?:[\w./?=&#%+~:-]*[\w/=%#-])?)?"
_MAIL = re.compile(
    rf"(?<![\w.@])[A-Za-z0-9](?:[\w.+-]*[\w+-])?@(?:{_LABEL}\.)+[A-Za-z]{{2,}}(?![A-Za-z0-9-]|\.\w)", re.ASCII
)
_WEB = re.compile(
    rf"(?<![\w.@-])(?:https?://(?:[\w-]+\.)*[\w-]+(?::\d+)?|www\.(?:[\w-]+\.)+[A-Za-z]{{2,}}"
    rf"|(?:{_LABEL}\.)+(?:{_DOMAINS}))(?![A-Za-z0-9-]|\.[A-Za-z0-9]){_PATH}",
    re.ASCII | re.IGNORECASE,
)
_IP = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3})(?::(\d{1,5})|/(\d{1,2}))?(?!\.?\d)")

Words = Mapping[str, str]


def written_out(
    text: AlignedText, words: Words, said: Callable[[str], str], ip: Callable[[re.Match[str]], str]
) -> AlignedText:
    """Write out the addresses in a text.

    Args:
        text: the text.
        words: names of `.`, `/`, `@` and the other signs of an address.
        said: writes out a part between two signs (`www` by its letters …).
        ip: writes out an IP address; group 1 holds its numbers, 2 a port, 3 the length of a prefix.
    """
    if not re.search(r"\w[.@/]\w", text):
        return text

    def spelled(match: re.Match[str]) -> str:
        address = re.sub(r"^https?://", "", match[0], flags=re.IGNORECASE).rstrip("/")
        return "".join(words.get(part) or said(part) for part in re.split(r"([^A-Za-z0-9])", address) if part)

    text = text.sub(_MAIL, spelled)
    text = text.sub(_WEB, spelled)
    return text.sub(_IP, lambda match: ip(match) if all(int(n) < 256 for n in match[1].split(".")) else match[0])
