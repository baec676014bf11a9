"""Keeps the form over a reload and a switch of the language: in the browser's tab, and nowhere else.

The key is no part of it. `form.js` writes the form into the tab's sessionStorage, which the browser drops with the tab.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speech.limits import MAX_INSTRUCTION, MAX_LONG_TEXT, MAX_TRANSCRIPT
from speech.requests import MAX_SEED, SPEED_RANGE
from webui import folder

#: Longer text than the API takes is kept too, so that a person can shorten it.
_ROOM = 4


class Form(BaseModel):
    """Holds the controls of the page as a browser has kept them; fields as in `run.Wish`, without the key."""

    model_config = ConfigDict(extra="ignore")

    source: Literal["clip", "voice"] = "clip"
    clip: Annotated[str, Field(max_length=1000)] | None = None
    voice: Annotated[str, Field(max_length=200)] | None = None
    dialect: Annotated[str, Field(max_length=64)] | None = None
    text: Annotated[str, Field(max_length=_ROOM * MAX_LONG_TEXT)] | None = None
    mode: Literal["fast", "instruct"] = "fast"
    style: Annotated[str, Field(max_length=_ROOM * MAX_INSTRUCTION)] | None = None
    prompt_text: Annotated[str, Field(max_length=_ROOM * MAX_TRANSCRIPT)] | None = None
    speed: Annotated[float, Field(ge=SPEED_RANGE[0], le=SPEED_RANGE[1])] | None = 1.0
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = 0
    long_form: bool = False

    @property
    def clip_file(self) -> str | None:
        """The clip's path, if it is a file of ours that is still there."""
        if not self.clip:
            return None
        try:
            path = Path(self.clip).resolve()
            return str(path) if path.is_relative_to(folder.own().resolve()) and path.is_file() else None
        except (OSError, ValueError):
            return None


FIELDS = tuple(Form.model_fields)
#: Reads the kept form as the only input of an event; form.js writes it on each change.
READ = "() => [window.cosygraphForm?.read() ?? '']"
SAVE = f"(...values) => window.cosygraphForm?.save({json.dumps(FIELDS)}, values)"
BEGIN = "() => window.cosygraphForm?.begin()"


def read(kept: Any) -> Form | None:
    """Return the form that a browser has kept (JSON, or what it stands for); None where it is no such form."""
    try:
        if isinstance(kept, str):
            return Form.model_validate_json(kept) if kept else None
        return Form.model_validate(kept)
    except ValidationError:
        return None
