"""The key file: which keys there are, whose, and what they may do. YAML, and holds no secret, only hashes:

    keys:
      - name: load-test
        sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
        roles: [synthesize]
        limits: {requests_per_minute: 60, concurrent: 4}

`python -m cluster key NAME` makes a key and its entry; docs/access.md has all the fields. A key has 256 random bits, so
its plain hash can't be turned back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from access.settings import CallerLimits
from config.strict import StrictModel
from speech.dialects import Registry
from speech.errors import InvalidInput

Role = Literal["synthesize", "voices", "view-traces", "view-services", "admin"]
ROLES: frozenset[str] = frozenset(Role.__args__)
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_AS_LIST = BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)


class Key(StrictModel):
    """One entry. An entry of the older format, which had a name and a hash alone, may synthesize."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    sha256: Annotated[tuple[Sha256, ...], _AS_LIST, Field(min_length=1)]  #: the newest first; two during a rotation
    roles: frozenset[Role] = frozenset({"synthesize"})
    owner: str | None = Field(None, min_length=1, max_length=256)  #: whose hash is `user.hash`; None: the name's
    dialect: str | None = None  #: stands in where a request may leave its dialect out and does
    limits: CallerLimits | None = None  #: None: the graph's `access.default_limits`
    trusted: bool = True  #: whether its word counts in tracing: "sampled", "debug", X-User-Id
    expires: datetime | date | None = None  #: UTC unless it says otherwise; a date is good to the end of that day

    @property
    def ends(self) -> datetime | None:
        """The moment from which this key is refused."""
        if self.expires is None:
            return None
        if not isinstance(self.expires, datetime):
            return datetime.combine(self.expires + timedelta(days=1), time(), UTC)
        return self.expires if self.expires.tzinfo else self.expires.replace(tzinfo=UTC)


class KeyFile(StrictModel):
    keys: Annotated[tuple[Key, ...], BeforeValidator(lambda value: () if value is None else value)] = ()

    @model_validator(mode="after")
    def _nothing_twice(self) -> KeyFile:
        names = [key.name for key in self.keys]
        hashes = [sha256 for key in self.keys for sha256 in key.sha256]
        for what, values in (("name", names), ("sha256", hashes)):
            if len(set(values)) < len(values):
                raise ValueError(f"the same {what} is there twice; each key has its own")
        return self

    def by_hash(self) -> dict[str, Key]:
        return {sha256: key for key in self.keys for sha256 in key.sha256}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def parse(text: str, path: Path, dialects: Registry | None = None) -> KeyFile:
    """The file's text as keys, their dialects as the registry writes them. Raises ValueError that names `path`, the
    place in it and the remedy, and never a value out of it."""
    try:
        loaded = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _damaged(path, f"it is no YAML{f' at line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(loaded, Mapping):
        raise _damaged(path, "it has no list `keys`")
    try:
        file = KeyFile(**loaded)
    except ValidationError as error:
        raise _damaged(path, _first(error)) from None
    except TypeError:
        raise _damaged(path, "a name in it is no word") from None
    return file if dialects is None else KeyFile(keys=tuple(_spoken(key, path, dialects) for key in file.keys))


def read(path: Path, dialects: Registry | None = None) -> KeyFile:
    """Raises ValueError where the file can't be read or is damaged."""
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


def _spoken(key: Key, path: Path, dialects: Registry) -> Key:
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
    """Where and what. Pydantic's own text would quote the value."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{place}: {first['msg']}"
