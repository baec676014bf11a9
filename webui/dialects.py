"""Draws the dialects: those that the engine speaks as a plain <select>, the others folded below it, with their reason.

Nothing is preselected. Names are the native ones, with the English name beside them on the English page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

#: The choice goes into `value`, where Python finds it, and a choice of Python's goes into the <select>.
SCRIPT = """
element.addEventListener('change', event => { props.value = event.target.value; });
watch('value', () => {
  const select = element.querySelector('select'), wanted = props.value || '';
  if (select.value !== wanted) select.value = wanted;
});
"""


def template(words: Mapping[str, str]) -> str:
    """Return the template for gr.HTML, with the properties that `choice` brings."""
    return (
        f'<label for="dialect">{escape(words["dialect"])}</label>'
        '<select id="dialect" required aria-describedby="dialect-note">${options}</select>'
        '${unspoken}<small id="dialect-note">${note}</small>'
    )


def properties(found: Mapping[str, Any] | None, words: Mapping[str, str], language: str) -> dict[str, Any]:
    """Return the template's properties for what GET /api/dialects answered; None before it has."""
    if not found:
        return {"options": options([], words, language), "unspoken": "", "note": ""}
    engine = found["engine"]
    notice = words.get(f"notice_{engine['name']}") or engine.get("notice") or ""
    note = f"{words['engine']}: {engine['name']} {engine.get('version') or ''}. {notice}"
    return {
        "options": options(found["dialects"], words, language),
        "unspoken": unspoken(found["dialects"], words, language, engine["name"]),
        "note": escape(note),
    }


def choice(found: Mapping[str, Any], chosen: str | None, words: Mapping[str, str], language: str) -> dict[str, Any]:
    """Return the component's change that chooses a dialect. It has to bring every property, or Gradio forgets them."""
    return {"value": chosen if speaks(found, chosen) else None, **properties(found, words, language)}


def speaks(found: Mapping[str, Any], code: str | None) -> bool:
    """Tell whether the engine of this answer speaks a dialect."""
    return any(one["code"] == code and one.get("supported") for one in found.get("dialects", ()))


def options(dialects: Sequence[Mapping], words: Mapping[str, str], language: str) -> str:
    """Draw the <option>s of the dialects that can be spoken, in groups of Chinese and others."""
    groups: dict[str, list[str]] = {"group_zh": [], "group_other": []}
    for dialect in dialects:
        if dialect.get("supported"):
            group = "group_zh" if dialect.get("language") == "zh" else "group_other"
            groups[group].append(
                f'<option value="{escape(dialect["code"])}">{escape(name_of(dialect, language))}</option>'
            )
    inner = "".join(
        f'<optgroup label="{escape(words[name])}">{"".join(found)}</optgroup>'
        for name, found in groups.items()
        if found
    )
    return f'<option value="" selected disabled>{escape(words["choose_dialect"])}</option>{inner}'


def unspoken(dialects: Sequence[Mapping], words: Mapping[str, str], language: str, engine: str) -> str:
    """Draw the dialects that the engine can't speak, folded; an empty string where it speaks them all."""
    names = [name_of(dialect, language) for dialect in dialects if not dialect.get("supported")]
    if not names:
        return ""
    reason = words["not_spoken" if engine == "cosyvoice3" else "needs_cosyvoice3"].format(count=len(names))
    entries = "".join(f"<li>{escape(name)}</li>" for name in names)
    return f'<details class="unspoken"><summary>{escape(reason)}</summary><ul>{entries}</ul></details>'


def name_of(dialect: Mapping, language: str) -> str:
    """Return a dialect's name as a person reads it on the page in this language."""
    name = str(dialect.get("name") or dialect["code"])
    if language != "zh" and (english := dialect.get("english_name")) and english != name:
        name = f"{name} · {english}"
    return name


def name_by_code(found: Mapping[str, Any], code: str, language: str) -> str:
    """Return the name of the dialect with this code; the code where the answer does not list it."""
    return next((name_of(one, language) for one in found.get("dialects", ()) if one["code"] == code), code)
