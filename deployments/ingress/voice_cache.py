"""Voices that one ingress has seen before, by what they were found in: a repeated voice skips the first two stages.

A voice's key is a hash of everything that goes into finding it: the clip's bytes, its transcript, and the engine. By
the clip alone, a voice would come back with another transcript's words in it; by the transcript alone, it would be
somebody else's. The same sound in other bytes is another voice: it may miss, it never mixes.

What is kept is what EXTRACT_SPEAKER replied. The ingress takes it while GENERATE_MEL computes, so no answer waits for
it, and copies it: a mapped array would hold one of the process's open files for as long as it is kept. Nothing of it
is logged, and nothing leaves the process but to tts-service.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from deployments.arrays import Parts
from deployments.safe_traceback import safe_traceback
from deployments.wire import CLIP, ENGINE, Reply
from engines.contract import Arrays, Capabilities

log = logging.getLogger("ray.serve")

#: What a kept voice takes beside its arrays' data: key, objects, places in two dictionaries (measured: 1.4 to 2.2 kB).
OVERHEAD_BYTES = 2_000
#: From here on a thread computes the hash: it takes 11 ms for the largest upload, and the event loop is everybody's.
HASH_ASIDE_BYTES = 1_000_000
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class KeptVoice:
    """`arrays` as EXTRACT_SPEAKER replied them; `clip`: PREPROCESS_AUDIO's tags that say what the clip was like."""

    arrays: Arrays = field(repr=False)
    clip: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def copied(cls, arrays: Arrays, clip: Mapping[str, Any] = MappingProxyType({})) -> KeptVoice:
        """Of arrays that are another's: a mapped one would hold an open file for as long as it is kept."""
        return cls({name: np.array(array) for name, array in arrays.items()}, clip)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values()) + OVERHEAD_BYTES


class VoiceCache:
    """One ingress replica's. Holds at most `limit_mb` megabytes; those not asked for the longest go first.

    Args:
        engine: of the graph; a voice is only valid for the version that made it.
        unpack: takes a reply's arrays from where they wait: `ArrayStore.unpack`.
        limit_mb: 0 is off: nothing is looked up, kept or counted.
    """

    def __init__(
        self,
        engine: Capabilities,
        unpack: Callable[[Parts], Awaitable[Mapping[str, np.ndarray]]],
        limit_mb: float = 0.0,
    ) -> None:
        self._engine = (engine.name, engine.version)
        self._unpack = unpack
        self._limit = int(limit_mb * MB)
        self._voices: OrderedDict[bytes, KeptVoice] = OrderedDict()  # the one asked for last stands last
        self._bytes = 0
        self._counts = dict.fromkeys(("hits", "misses", "evictions", "refused", "failed"), 0)
        self._keeping: set[asyncio.Task] = set()
        self._lock = threading.Lock()  # settings and counters may come from another thread than requests

    def configure(self, limit_mb: float) -> None:
        """Another size from now on; what no longer fits is evicted."""
        with self._lock:
            self._limit = int(limit_mb * MB)
            self._shrink()

    async def key(self, upload: bytes, transcript: str | None) -> bytes | None:
        """What a voice found in `upload` with `transcript` is kept by; None while the cache is off."""
        if self._limit == 0:
            return None
        if len(upload) < HASH_ASIDE_BYTES:
            return _hash(self._engine, upload, transcript)
        return await asyncio.to_thread(_hash, self._engine, upload, transcript)

    def find(self, key: bytes | None) -> KeptVoice | None:
        """The voice of that key, or None; counted as a hit or a miss, unless the key is None."""
        if key is None:
            return None
        with self._lock:
            voice = self._voices.get(key)
            self._counts["misses" if voice is None else "hits"] += 1
            if voice is not None:
                self._voices.move_to_end(key)
            return voice

    def keep(self, key: bytes, voice: KeptVoice) -> None:
        """Keep a voice that is in hand already, its arrays the caller's no longer."""
        if self._limit:
            self._put(key, voice)

    def keep_later(self, key: bytes | None, clip: Reply, voice: Reply) -> None:
        """Begin to keep the voice that has just been found; call on the event loop. Failures are counted, not raised.

        `clip` and `voice` are the successful replies of audio-service and embedding-service.
        """
        if key is None:
            return
        # In a fresh context: the request's own is Serve's way to cancel what belongs to a client that has left.
        task = asyncio.get_running_loop().create_task(self._keep(key, clip, voice), context=contextvars.Context())
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, key: bytes, clip: Reply, voice: Reply) -> None:
        if key in self._voices:  # another request has found it at the same time
            return
        if voice.facts.get(ENGINE) != self._engine:
            # Its replica was started with other weights than this ingress knows of.
            self._count("refused")
            return
        try:
            found = await self._unpack(voice.parts)
            self._put(key, KeptVoice.copied(found, clip.facts.get(CLIP, {})))
        except Exception as error:
            self._count("failed")
            log.warning("a voice could not be kept: %s", safe_traceback(error))

    def _put(self, key: bytes, voice: KeptVoice) -> None:
        with self._lock:
            if voice.nbytes > self._limit:
                self._counts["refused"] += 1
            elif key not in self._voices:
                self._voices[key] = voice
                self._bytes += voice.nbytes
                self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self._limit:
            _, voice = self._voices.popitem(last=False)
            self._bytes -= voice.nbytes
            self._counts["evictions"] += 1

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def counters(self) -> dict[str, int]:
        """`hits` and `misses` in requests; `evictions`, `refused` (larger than the cache, or of another engine than
        the ingress's) and `failed` (lost before they were kept) in voices; and what is kept now: `voices`, `bytes`,
        `limit_bytes`."""
        with self._lock:
            return self._counts | {"voices": len(self._voices), "bytes": self._bytes, "limit_bytes": self._limit}


def _hash(engine: tuple[str, str], upload: bytes, transcript: str | None) -> bytes:
    """32 bytes. Each part is told from the next by its length, and no transcript from an empty one by a mark."""
    parts = [part.encode() for part in engine]
    parts.append(b"" if transcript is None else b"=" + transcript.encode())
    state = hashlib.sha256()
    for part in (*parts, upload):
        state.update(len(part).to_bytes(8))
        state.update(part)
    return state.digest()
