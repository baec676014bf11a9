"""Make the API key of the watchdog's canary; without one it can check nothing where keys are required.

Only the run folder's own key file is written to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from access.key_editor import KeyEditor
from access.keys import digest
from cluster import key, private_file

NAME = "watchdog-canary"  #: of its entry
FILE = "watchdog.key"  #: in the run folder, for its owner alone


def ready(run_dir: Path, keys_file: Path, say: Callable[[str], None]) -> Path | None:
    """Return the file that holds the key, made if there is none that works.

    Returns:
        None, with a warning, if `keys_file` is not the run folder's.

    Raises:
        ValueError: The key file can't be changed.
    """
    if keys_file.resolve() != (run_dir / key.FILE).resolve():
        say(
            f"WARNING: the watchdog's canary has no API key, so it sees nothing. Make one (python -m cluster key "
            f"watchdog --file {keys_file}), put it into a file, and name that in the config: canary_key_file, in the "
            "watchdog's args"
        )
        return None
    path, editor = run_dir / FILE, KeyEditor(keys_file)
    entry = next((one for one in editor.entries().keys if one.name == NAME), None)
    if entry is not None:
        if _holds(path, entry.sha256):
            path.chmod(0o600)
            return path
        editor.revoke(NAME)
    # A key that could not be written is replaced at the next start: `_holds` finds no file for it.
    private_file.write(path, editor.add(NAME, roles=["synthesize"]) + "\n")
    return path


def _holds(path: Path, sha256: tuple[str, ...]) -> bool:
    try:
        return digest(path.read_text().strip()) in sha256
    except (OSError, ValueError):
        return False
