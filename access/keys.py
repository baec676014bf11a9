"""The key file: the keys with their owners, roles and limits. It is YAML, and holds hashes, no secrets:

    keys:
      - name: load-test
        sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
        roles: [synthesize]
        limits: {requests_per_minute: 60, concurrent: 4}

`python -m cluster key NAME` makes a key and its entry; docs/access.md has all the fields. A key has 256 random bits, so
a plain hash of it is safe to store.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from access.settings import CallerLimits
from config.strict import StrictModel
from speech.dialects import Registry
from speech.errors import InvalidInput

Role = Literal["synthesize", "voices", "view-traces", "view-services", "admin"]
ROLES: frozenset[str] = frozenset(get_args(Role))
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_AS_LIST = BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)


class Key(StrictModel):
    """One entry of the key file. An entry without roles (the older format) may synthesize."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    """Lower-case letters, digits, - and _."""
    sha256: Annotated[tuple[Sha256, ...], _AS_LIST, Field(min_length=1)]
    """Hash of the key, 64 hex digits; a list of two during a rotation, the newest first."""
    roles: frozenset[Role] = frozenset({"synthesize"})
    """What the key may do."""
    owner: str | None = Field(default=None, min_length=1, max_length=256)
    """The user whose hash is `user.hash` in traces. Default: the name."""
    dialect: str | None = None
    """The dialect of requests that may leave their dialect out and do."""
    limits: CallerLimits | None = None
    """Limits of this key. Default: the graph's `access.default_limits`."""
    trusted: bool = True
    """The headers "sampled", "debug" and X-User-Id count."""
    expires: datetime | date | None = None
    """UTC unless a zone is given; a date is valid to the end of that day."""

    @property
    def ends(self) -> datetime | None:
        """The time from which this key is refused; None: never."""
        if self.expires is None:
            return None
        if not isinstance(self.expires, datetime):
            # Not the next day's beginning: the last day of the calendar, which people write for "never", has none.
            return datetime.combine(self.expires, time.max, UTC)
        return self.expires if self.expires.tzinfo else self.expires.replace(tzinfo=UTC)


class KeyFile(StrictModel):
    """The whole key file."""

    keys: Annotated[tuple[Key, ...], BeforeValidator(lambda value: () if value is None else value)] = ()
    """All keys."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> KeyFile:
        names = [key.name for key in self.keys]
        hashes = [sha256 for key in self.keys for sha256 in key.sha256]
        for what, values in (("name", names), ("sha256", hashes)):
            if len(set(values)) < len(values):
                raise ValueError(f"the same {what} is there twice; each key needs its own")
        return self

    def by_hash(self) -> dict[str, Key]:
        """The keys by each of their hashes."""
        return {sha256: key for key in self.keys for sha256 in key.sha256}


def digest(key: str) -> str:
    """The hash of a key, as the key file has it."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse(text: str, path: Path, dialects: Registry | None = None) -> KeyFile:
    """Parse the text of a key file; dialects become the registry's codes.

    Raises:
        ValueError: the text is damaged. The message names `path`, the place in the file and the remedy, and quotes no
            value from it.
    """
    try:
        loaded = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _damaged(path, f"it is no YAML{f' at line {mark.line + 1}' if mark else ''}") from None
    except ValueError:  # PyYAML's own: it makes dates of what looks like one
        raise _damaged(path, "a date or a number in it does not exist, such as 2026-02-30") from None
    except RecursionError:
        raise _damaged(path, "its lists are nested far too deep") from None
    if not isinstance(loaded, Mapping):
        raise _damaged(path, "it has no list `keys`")
    try:
        file = KeyFile(**loaded)
    except ValidationError as error:
        raise _damaged(path, _first(error)) from None
    except TypeError:
        raise _damaged(path, "a key in it is no text") from None
    return (
        file if dialects is None else KeyFile(keys=tuple(_with_registry_code(key, path, dialects) for key in file.keys))
    )


def read_key_file(path: Path, dialects: Registry | None = None) -> KeyFile:
    """Read a key file.

    Raises:
        ValueError: the file can't be read, or is damaged; see `parse`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _damaged(path, "it is not in UTF-8") from None
    except OSError as error:
        raise ValueError(
            f"the key file {path} can't be read ({error.strerror}); make it with `python -m cluster key "
            "NAME --file FILE`, or leave access.keys_file out"
        ) from error
    return parse(text, path, dialects)


def _with_registry_code(key: Key, path: Path, dialects: Registry) -> Key:
    if key.dialect is None:
        return key
    try:
        return key.model_copy(update={"dialect": dialects.find(key.dialect).code})
    except InvalidInput:
        raise _damaged(path, f"the dialect of the key {key.name} is not known; GET /api/dialects lists them") from None


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} is no key file: {why}. It needs a list `keys`, each with `name` (lower-case letters, "
        "digits, - and _) and `sha256` (64 hex digits); docs/access.md has the rest"
    )


def _first(error: ValidationError) -> str:
    """The place of the first error and its message. Pydantic's own text would quote the value."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole file"
    return f"{place}: {first['msg']}"
