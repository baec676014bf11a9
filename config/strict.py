"""The base of all settings: strict at every level, with the nearest key named in the error."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from config.unknown_key import unknown_key


class StrictModel(BaseModel):
    """A settings model that refuses unknown keys and names the nearest known one.

    It is frozen: a replica's settings change only through `reconfigure`. The string below a field is the field's
    description, from which `python -m config.document` makes docs/configuration.md.
    """

    # Errors must not quote values: some are secrets (a salt, a broker's password, an address with credentials).
    # No infinity: times become whole nanoseconds, and the config travels as JSON. Neither has one.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data.keys() - cls.model_fields.keys():
                raise ValueError(unknown_key(str(key), list(cls.model_fields), cls.__name__))
        return data
