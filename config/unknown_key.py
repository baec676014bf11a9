"""The error message for a key that does not exist; free of pydantic, so that engines can use it alone."""

from __future__ import annotations

from config.nearest import nearest


def unknown_key(key: str, known: list[str], owner: str) -> str:
    """Return the message for a key that `owner` does not have; it names the nearest known one.

    Args:
        key: The key that was given.
        known: The keys that exist.
        owner: The place of the key, as people know it.
    """
    near = nearest(key, known)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known) or 'none'}"
    return f"unknown key '{key}' in {owner}; {hint}"
