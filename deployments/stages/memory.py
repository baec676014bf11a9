"""Memory that a replica's start and its largest requests leave behind."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect garbage and return freed memory to the kernel.

    Loading a model unpacks its weights: 340 MB of garbage in tts-service. The launcher tells glibc to keep what is
    freed, because tensors need it again at once (`cluster/ray_head.py`). So it is given back once, after loading.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Return freed memory to the kernel; without it, a replica keeps what its largest request needed.

    Does nothing where the C library has no `malloc_trim` (musl, macOS).
    """
    give = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give is not None:
        give(0)
