"""The mark that says that speech is synthetic: the field `AIGC` of GB 45438-2025, as files and headers carry it.

    value = Mark("Example Ltd", trace_id).value()
    Mark.parse(value)

The standard names the field and its JSON. Each container has a usual place for a named text: `speech/encoding.py` and
`speech/wav_header.py` write it there.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

FIELD = "AIGC"  #: the field's name in a file's metadata
HEADER = "X-AIGC"  #: the response header with the same value
SYNTHETIC = "1"  #: the standard's code for content that is generated; 2 and 3 are "possibly" and "suspected"
MAX_PRODUCER = 128  #: characters of a producer's name or code
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_MAX_VALUE = 8192  #: characters of a value that is read; ours have some hundred


@dataclass(frozen=True)
class Mark:
    """The values of one mark.

    Attributes:
        content_producer: name or code of the provider of the service that made the speech.
        produce_id: the provider's own id of this piece; here the trace id.
        label: `SYNTHETIC`.
        content_propagator: whoever spread the file, if they have added themselves.
        propagate_id: their id of it.
    """

    content_producer: str
    produce_id: str
    label: str = SYNTHETIC
    content_propagator: str = ""
    propagate_id: str = ""

    def value(self) -> str:
        """Return the field's value: JSON in ASCII, so that every container and a header can hold it."""
        return json.dumps(
            {
                "Label": self.label,
                "ContentProducer": self.content_producer,
                "ProduceID": self.produce_id,
                "ReservedCode1": "",
                "ContentPropagator": self.content_propagator,
                "PropagateID": self.propagate_id,
                "ReservedCode2": "",
            },
            separators=(",", ":"),
        )

    @property
    def trace_id(self) -> str | None:
        """The trace id in `produce_id`; None if that is something else."""
        return self.produce_id if _TRACE_ID.fullmatch(self.produce_id) else None

    def public(self) -> dict[str, str]:
        """Return the values by the names that our JSON has."""
        return asdict(self)

    @classmethod
    def parse(cls, value: str | None) -> Mark | None:
        """Return the mark in a field's value, whoever wrote it; None if it is not one.

        Some writers put the field's name into the value once more (`{"AIGC": {…}}`).
        """
        if not value or len(value) > _MAX_VALUE:
            return None
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if isinstance(found, dict) and isinstance(found.get(FIELD), dict):
            found = found[FIELD]
        if not isinstance(found, dict) or not _text(found, "Label"):
            return None
        return cls(
            _text(found, "ContentProducer"),
            _text(found, "ProduceID"),
            _text(found, "Label"),
            _text(found, "ContentPropagator"),
            _text(found, "PropagateID"),
        )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name, "")
    # JSON may hold half of a surrogate pair, which no answer can.
    return str(value).encode("utf-8", "replace").decode() if isinstance(value, (str, int)) else ""
