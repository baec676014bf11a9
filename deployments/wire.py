"""What travels between replicas: small replies, and references to what is large.

A stage puts each large array into Ray's object store itself and replies with the reference; the ingress hands that
reference on as a top-level argument, so the array goes from replica to replica and the ingress never holds one.
(References nested in a list or dict lose their owner under load; as top-level arguments they do not.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from speech.errors import SpeechError

#: Ray sends results below 100 kB inline; from there on, an array is worth an object of its own.
LARGE_BYTES = 100_000

#: How long a stage keeps its own reference to what it has put. Serve's replies are streamed items, and a reference
#: inside one is not counted as the ingress's until the ingress has told the owner; under load the owner would free the
#: array before (ReferenceCountingAssertionError on every fifth request at 16 in flight).
HOLD_S = 10.0

Parts = dict[str, "np.ndarray | ray.ObjectRef"]


@dataclass(frozen=True)
class Reply:
    """A stage's answer: its outcome or its error, and in any case the spans it finished."""

    spans: list[dict]
    parts: Parts = field(default_factory=dict)  #: arrays by name, large ones as ObjectRef
    facts: dict[str, Any] = field(default_factory=dict)  #: the few small values the next stage needs
    payload: bytes = b""  #: the finished audio; only the last stage has one
    error: SpeechError | None = None


def pack(arrays: Mapping[str, np.ndarray]) -> Parts:
    """Arrays as they go into a reply: from LARGE_BYTES on as an ObjectRef owned by this replica."""
    return {name: ray.put(array) if array.nbytes >= LARGE_BYTES else array for name, array in arrays.items()}
