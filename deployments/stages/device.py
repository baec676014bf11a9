"""Where a replica computes, and how busy that device is.

Torch is imported where it is used: the ingress and audio-service compute nothing with it, and would wait for it.
"""

from __future__ import annotations

import time

import ray

_last: tuple[float, int | None] = (0.0, None)


def pick_device(wanted: str) -> str:
    """`auto` is the GPU that Ray gave this replica, else the CPU. RuntimeError where cuda is asked for but absent."""
    if wanted == "auto" and not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        return "cpu"  # without torch, which takes seconds to import: a replica that replaces another one is waited for
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            f"device={wanted} was configured, but torch sees no GPU in this replica: give the "
            "deployment num_gpus in the Serve config, or set device=auto"
        )
    return wanted


def gpu_utilization(device: str) -> int | None:
    """Percent of the last sampling period in which a kernel ran (NVML); None on a CPU or without NVML's bindings.

    Asked at most once a second: NVML itself averages over longer than that.
    """
    global _last
    if not device.startswith("cuda"):
        return None
    import torch

    now = time.monotonic()
    if now - _last[0] > 1.0:
        try:
            _last = (now, torch.cuda.utilization(device))
        except (ModuleNotFoundError, RuntimeError):
            _last = (now, None)
    return _last[1]
