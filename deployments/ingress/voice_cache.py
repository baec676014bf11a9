"""Caches the voices that one ingress has seen before: a repeated voice skips the first two stages.

A voice's key is a hash of everything that goes into finding it: the clip's bytes, its transcript, and the engine. By
the clip alone, a voice would come back with another transcript's words in it; by the transcript alone, it would be
another person's. The same sound in other bytes is another voice: the cache may miss, it never mixes.

The cached value is what EXTRACT_SPEAKER replied. The ingress fetches it while GENERATE_MEL computes, so no answer waits
for it, and copies it: a mapped array would hold one of the process's open files for as long as it is cached. Nothing of
it is logged, and nothing leaves the process except to tts-service.
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

from deployments.arrays import Array, PackedArrays
from deployments.safe_traceback import safe_traceback
from deployments.wire import ClipReply, VoiceReply
from engines.contract import Arrays, Capabilities

log = logging.getLogger("ray.serve")

#: Bytes of a cached voice beside its arrays' data: key, objects, entries of dictionaries (measured: 1.4 to 2.2 kB).
OVERHEAD_BYTES = 2_000
#: From here on a thread computes the hash: the largest upload takes 11 ms, and all requests share the event loop.
HASH_ASIDE_BYTES = 1_000_000
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class CachedVoice:
    """A voice whose arrays the ingress holds itself.

    Attributes:
        arrays: as EXTRACT_SPEAKER replied them.
        clip_tags: PREPROCESS_AUDIO's tags that say what the clip was like.
    """

    arrays: Arrays = field(repr=False)
    clip_tags: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def copy_of(cls, arrays: Arrays, clip_tags: Mapping[str, Any] = MappingProxyType({})) -> CachedVoice:
        """Copy arrays that belong to another: a mapped one would hold an open file for as long as it is cached."""
        return cls({name: np.array(array) for name, array in arrays.items()}, clip_tags)

    @property
    def nbytes(self) -> int:
        """Bytes that the voice takes in the cache."""
        return sum(array.nbytes for array in self.arrays.values()) + OVERHEAD_BYTES


class VoiceCache:
    """An LRU cache of voices, of at most `limit_mb` megabytes.

    Args:
        engine: the graph's engine; a voice is only valid for the version that made it.
        unpack: fetches a reply's arrays: `ArrayStore.unpack_all`.
        limit_mb: megabytes (10**6 bytes); 0 is off: nothing is looked up, cached or counted.
    """

    def __init__(
        self,
        engine: Capabilities,
        unpack: Callable[[PackedArrays], Awaitable[Mapping[str, Array]]],
        limit_mb: float = 0.0,
    ) -> None:
        self._engine = (engine.name, engine.version)
        self._unpack = unpack
        self._limit = int(limit_mb * MB)
        self._voices: OrderedDict[bytes, CachedVoice] = OrderedDict()  # most recently used last
        self._bytes = 0
        self._counts = dict.fromkeys(("hits", "misses", "evictions", "refused", "failed"), 0)
        self._adding: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()  # settings and counters may come from another thread than requests

    def configure(self, limit_mb: float) -> None:
        """Change the size; voices that no longer fit are evicted."""
        with self._lock:
            self._limit = int(limit_mb * MB)
            self._shrink()

    async def key(self, upload: bytes, transcript: str | None) -> bytes | None:
        """Return the key of the voice in `upload` with `transcript`; None while the cache is off."""
        if self._limit == 0:
            return None
        if len(upload) < HASH_ASIDE_BYTES:
            return _hash(self._engine, upload, transcript)
        return await asyncio.to_thread(_hash, self._engine, upload, transcript)

    def find(self, key: bytes | None) -> CachedVoice | None:
        """Return the voice of a key, or None; counts a hit or a miss, unless the key is None."""
        if key is None:
            return None
        with self._lock:
            voice = self._voices.get(key)
            self._counts["misses" if voice is None else "hits"] += 1
            if voice is not None:
                self._voices.move_to_end(key)
            return voice

    def add(self, key: bytes, voice: CachedVoice) -> None:
        """Add a voice that the ingress holds already; its arrays belong to the cache from now on."""
        if self._limit:
            self._put(key, voice)

    def add_later(self, key: bytes | None, clip: ClipReply, voice: VoiceReply) -> None:
        """Begin to add a voice that was just found; call on the event loop. Failures are counted, not raised.

        Args:
            key: from `key()`; None does nothing.
            clip: audio-service's reply.
            voice: embedding-service's reply.
        """
        if key is None:
            return
        # In a fresh context: the request's own is Serve's way to cancel what belongs to a client that has left.
        task = asyncio.get_running_loop().create_task(self._fetch(key, clip, voice), context=contextvars.Context())
        self._adding.add(task)
        task.add_done_callback(self._adding.discard)

    async def _fetch(self, key: bytes, clip: ClipReply, voice: VoiceReply) -> None:
        if key in self._voices:  # another request has found it at the same time
            return
        if voice.engine != self._engine:
            # Its replica was started with other weights than this ingress knows of.
            self._count("refused")
            return
        try:
            arrays = await self._unpack(voice.arrays)
            self._put(key, CachedVoice.copy_of(arrays, clip.tags))
        except Exception as error:
            self._count("failed")
            log.warning("a voice could not be kept: %s", safe_traceback(error))

    def _put(self, key: bytes, voice: CachedVoice) -> None:
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
        """Return the cache's counters and its present size.

        `hits` and `misses` count requests; `evictions`, `refused` (larger than the cache, or of another engine than
        the ingress's) and `failed` (lost before they were cached) count voices; `voices`, `bytes` and `limit_bytes` are
        the present size.
        """
        with self._lock:
            return self._counts | {"voices": len(self._voices), "bytes": self._bytes, "limit_bytes": self._limit}


def _hash(engine: tuple[str, str], upload: bytes, transcript: str | None) -> bytes:
    """Return 32 bytes. Lengths tell each part from the next, and a mark tells an empty transcript from none."""
    parts = [part.encode() for part in engine]
    parts.append(b"" if transcript is None else b"=" + transcript.encode())
    state = hashlib.sha256()
    for part in (*parts, upload):
        state.update(len(part).to_bytes(8))
        state.update(part)
    return state.digest()
