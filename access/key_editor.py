"""Changes the key file as a whole: read, changed, checked, written beside it, put in its place. Keys are made here."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from access.keys import NAME, KeyFile, digest, parse, read

#: So that people, and programs that look for leaked secrets, know one when they see it.
PREFIX = "cosygraph_"


class KeyEditor:
    """Of one file, which need not be there yet. What the ingress reads is the old file or the new one, never half.

    All methods raise ValueError with cause and remedy; a file that is damaged is never written over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # a link stays a link

    def entries(self) -> KeyFile:
        return read(self._path) if self._path.exists() else KeyFile()

    def add(self, name: str, **fields) -> str:
        """A new key, which is returned and kept nowhere. `fields` are those of `access.keys.Key` as YAML has them."""
        if not NAME.fullmatch(name):
            raise ValueError(
                "that is no key name: lower-case letters, digits, - and _, at most 40, beginning with a letter or digit"
            )
        key = _fresh()
        with self._changed() as entries:
            if any(entry["name"] == name for entry in entries):
                raise ValueError(f"there is a key {name} already: --rotate gives it a new secret, --revoke ends it")
            entries.append({"name": name, "sha256": digest(key), **fields})
        return key

    def rotate(self, name: str) -> str:
        """A second key of the same name, which is returned; the one before goes on working, older ones do not."""
        key = _fresh()
        with self._changed() as entries:
            entry = _named(entries, name)
            entry["sha256"] = [digest(key), _hashes(entry)[0]]
        return key

    def retire(self, name: str) -> int:
        """End a rotation: only the newest key works. Returns how many ended."""
        with self._changed() as entries:
            entry = _named(entries, name)
            hashes = _hashes(entry)
            entry["sha256"] = hashes[0]
        return len(hashes) - 1

    def revoke(self, name: str) -> None:
        with self._changed() as entries:
            entries.remove(_named(entries, name))

    @contextmanager
    def _changed(self) -> Iterator[list[dict]]:
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)  # the folder's, since the file is replaced
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
                if self._path.exists():  # made by root for the ingress's user, it must stay readable for that one
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


def _named(entries: list[dict], name: str) -> dict:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise ValueError("there is no key of that name; `python -m cluster key --list` shows those there are")


def _hashes(entry: dict) -> list[str]:
    return [entry["sha256"]] if isinstance(entry["sha256"], str) else list(entry["sha256"])
