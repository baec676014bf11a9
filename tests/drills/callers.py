"""Callers with API keys, their requests, and the answers: the traffic of the doctor's incidents.

Four integrators: a shop, a radio station, a school and a telephone company. Each has an API key; the school's says in
which dialect it speaks where a request names none.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from access.key_editor import KeyEditor
from bench.measuring.clips import clip
from bench.measuring.load import Sample, arrivals, multipart, open_loop

KEYS: dict[str, dict] = {"shop": {}, "radio": {}, "school": {"dialect": "zh-Sichuan"}, "phone": {}}
#: What a request may be: its form, and the sample rate of its clip. But for `forgotten`, which the key's dialect may
#: save, all but `good` are the caller's fault.
VARIANTS: dict[str, tuple[dict[str, str], int]] = {
    "good": ({"text": "Hello there", "dialect": "en-US"}, 16_000),
    "empty": ({"text": "", "dialect": "en-US"}, 16_000),
    "narrow": ({"text": "Hello there", "dialect": "en-US"}, 8_000),
    "forgotten": ({"text": "Hello there"}, 16_000),
}
CLIP_S = 4.0


@dataclass(frozen=True)
class Kind:
    caller: str
    variant: str = "good"

    @property
    def status(self) -> int:
        """Return the status that the answer must have."""
        saved = self.variant == "forgotten" and "dialect" in KEYS[self.caller]
        return 200 if self.variant == "good" or saved else 400


Mix = Mapping[Kind, float]  #: shares of all requests; they add up to 1


@dataclass(frozen=True)
class Answers:
    """The requests of one run, in the order in which they were due, with their answers."""

    samples: list[tuple[Kind, Sample]]
    seconds: float

    def of(self, caller: str | None = None, variant: str | None = None) -> list[Sample]:
        return [
            sample for kind, sample in self.samples if caller in (None, kind.caller) and variant in (None, kind.variant)
        ]

    @property
    def refused(self) -> list[Sample]:
        return [sample for _, sample in self.samples if sample.status == 400]

    @property
    def unexpected(self) -> dict[str, int]:
        """Count the answers with a wrong status, by kind of request and status."""
        return dict(
            Counter(
                f"{kind.caller}, {kind.variant}: {sample.status}"
                for kind, sample in self.samples
                if sample.status != kind.status
            )
        )


class Callers:
    """The callers of one graph on `port`, each with its API key in `keys`."""

    def __init__(self, port: int, keys: Mapping[str, str]) -> None:
        self._port = port
        clips = {rate: clip(CLIP_S, rate) for _, rate in VARIANTS.values()}
        self._requests = {
            Kind(caller, variant): multipart(f"127.0.0.1:{port}", fields, clips[rate], headers={"X-API-Key": key})
            for caller, key in keys.items()
            for variant, (fields, rate) in VARIANTS.items()
        }

    def send(self, mix: Mix, per_s: float, seconds: float, seed: int) -> Answers:
        """Send requests in an open loop: a request does not wait for earlier answers. `per_s` is the Poisson rate."""
        moments = arrivals(per_s, seconds, seed)
        kinds = random.Random(seed).choices(list(mix), list(mix.values()), k=len(moments))
        planned = [(at_s, self._requests[kind]) for at_s, kind in zip(moments, kinds, strict=True)]
        samples = asyncio.run(open_loop("127.0.0.1", self._port, planned, timeout_s=seconds + 60))
        return Answers(list(zip(kinds, samples, strict=True)), seconds)


@contextmanager
def keyed() -> Iterator[tuple[dict, dict[str, str]]]:
    """Make API keys; yield the settings with which the graph knows them and puts hashes in traces, and the keys."""
    with TemporaryDirectory(prefix="bench-callers-") as folder:
        file, secret = Path(folder) / "keys.yaml", Path(folder) / "secret"
        keys = {name: KeyEditor(file).add(name, **fields) for name, fields in KEYS.items()}
        secret.write_text("0123456789abcdef" * 4)
        yield {"access": {"keys_file": str(file), "required": True}, "tracing": {"secret_file": str(secret)}}, keys
