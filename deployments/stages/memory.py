"""Memory that a replica's start leaves behind."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Return freed memory to the kernel.

    Loading a model unpacks its weights: 340 MB of garbage in tts-service. The launcher tells glibc to keep what is
    freed, because tensors need it again at once (`cluster/ray_head.py`). So it is given back once, after loading. Does
    nothing where the C library has no `malloc_trim` (musl, macOS).
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
