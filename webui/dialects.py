"""Draws the list of dialects as a plain <select>, where an entry can be shown and not be chosen.

Nothing is preselected. Names are the native ones, with the English name beside them on the English page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

#: The choice goes into `value`, where Python finds it.
SCRIPT = "element.addEventListener('change', event => { props.value = event.target.value; });"


def template(words: Mapping[str, str]) -> str:
    """Return the template for gr.HTML, with the properties `options` and `note`; an update has to bring both."""
    return (
        f'<label for="dialect">{escape(words["dialect"])}</label>'
        '<select id="dialect" required aria-describedby="dialect-note">${options}</select>'
        '<small id="dialect-note">${note}</small>'
    )


def options(dialects: Sequence[Mapping], words: Mapping[str, str], language: str) -> str:
    """Draw the <option>s in groups of Chinese and others. One that the engine can't speak is disabled and says so."""
    groups: dict[str, list[str]] = {"group_zh": [], "group_other": []}
    for dialect in dialects:
        group = "group_zh" if dialect.get("language") == "zh" else "group_other"
        groups[group].append(_option(dialect, words, language))
    inner = "".join(
        f'<optgroup label="{escape(words[name])}">{"".join(found)}</optgroup>'
        for name, found in groups.items()
        if found
    )
    return f'<option value="" selected disabled>{escape(words["choose_dialect"])}</option>{inner}'


def _option(dialect: Mapping, words: Mapping[str, str], language: str) -> str:
    name = str(dialect.get("name") or dialect["code"])
    if language != "zh" and (english := dialect.get("english_name")) and english != name:
        name = f"{name} · {english}"
    spoken = bool(dialect.get("supported"))
    mark = "" if spoken else f" — {words['not_spoken']}"
    return f'<option value="{escape(dialect["code"])}"{"" if spoken else " disabled"}>{escape(name + mark)}</option>'
