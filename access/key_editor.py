"""The key editor: makes keys, and changes the key file as a whole.

It reads the file, changes and checks it, writes the result beside it and renames that into place.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from access.keys import NAME, KeyFile, digest, parse, read_key_file

#: By this prefix people, and scanners for leaked secrets, recognise a key.
PREFIX = "cosygraph_"


class KeyEditor:
    """Edits one key file, which need not exist yet. The ingress reads the old file or the new one, never half of one.

    All methods raise ValueError with cause and remedy. A damaged file is never overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # a link stays a link

    def entries(self) -> KeyFile:
        """The keys in the file."""
        return read_key_file(self._path) if self._path.exists() else KeyFile()

    def add(self, name: str, **fields: object) -> str:
        """Add a key and return it; it is stored nowhere. `fields` are those of `access.keys.Key`, as in YAML."""
        if not NAME.fullmatch(name):
            raise ValueError(
                "this is no key name: use at most 40 lower-case letters, digits, - and _, and begin with a letter or a "
                "digit"
            )
        key = _fresh()
        with self._changed() as entries:
            if any(entry["name"] == name for entry in entries):
                raise ValueError(f"there is a key {name} already: --rotate gives it a new secret, --revoke ends it")
            entries.append({"name": name, "sha256": digest(key), **fields})
        return key

    def rotate(self, name: str) -> str:
        """Make a second key of the same name and return it. The previous key stays valid, older ones do not."""
        key = _fresh()
        with self._changed() as entries:
            entry = _named(entries, name)
            entry["sha256"] = [digest(key), _hashes(entry)[0]]
        return key

    def retire(self, name: str) -> int:
        """End a rotation: only the newest key stays valid. Returns the number of keys that ended."""
        with self._changed() as entries:
            entry = _named(entries, name)
            hashes = _hashes(entry)
            entry["sha256"] = hashes[0]
        return len(hashes) - 1

    def revoke(self, name: str) -> None:
        """Remove the key."""
        with self._changed() as entries:
            entries.remove(_named(entries, name))

    @contextmanager
    def _changed(self) -> Iterator[list[dict[str, Any]]]:
        folder = self._path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)  # the folder's, since the file is replaced
        except OSError as error:
            raise ValueError(
                f"the folder of the key file {self._path} can't be used ({error.strerror}): name another file, or use "
                "an account that may write there"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.entries()  # a damaged file is refused here
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
            entries = list((yaml.safe_load(text) or {}).get("keys") or ())
            yield entries
            self._write(yaml.safe_dump({"keys": entries}, sort_keys=False, allow_unicode=True, width=120))
        except OSError as error:
            raise ValueError(f"the key file {self._path} can't be written ({error.strerror})") from error
        finally:
            os.close(lock)

    def _write(self, text: str) -> None:
        parse(text, self._path)
        number, partial = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 600
        try:
            with open(number, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(number)
                if self._path.exists():  # root may edit it: the ingress's user must still be able to read it
                    before = self._path.stat()
                    os.chmod(number, 0o600 | before.st_mode & 0o040)
                    if (before.st_uid, before.st_gid) != (os.getuid(), os.getgid()):
                        os.chown(number, before.st_uid, before.st_gid)
            os.replace(partial, self._path)
        except BaseException:
            os.unlink(partial)
            raise


def _fresh() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise ValueError("there is no key of that name; `python -m cluster key --list` shows all keys")


def _hashes(entry: dict[str, Any]) -> list[str]:
    return [entry["sha256"]] if isinstance(entry["sha256"], str) else list(entry["sha256"])
