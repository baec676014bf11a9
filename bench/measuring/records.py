"""Writes files of results, with the hardware, versions and date that belong to figures."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def hardware() -> dict:
    """Describe the machine in words that readers can compare with theirs."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "ray")},
    }


def _version(package: str) -> str | None:
    """Return the installed version, or None: an engine by itself can be measured without Ray."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def about() -> dict:
    """Return the date, machine and versions of a measurement, and the share of computing time that others have taken.

    `cpu_stolen` is the hypervisor's part of the time in which this machine wanted to compute, since this module was
    imported: figures of a virtual machine with busy neighbours are theirs too. It is left out where no kernel tells it.
    """
    found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **hardware()}
    stolen, wanted = (now - then for now, then in zip(_processors(), _BEGAN, strict=True))
    return {**found, "cpu_stolen": round(stolen / wanted, 3)} if wanted else found


def _processors() -> tuple[int, int]:
    """Return the ticks that were stolen from all processors since the machine started, and those that were wanted.

    Source: proc_stat(5). Ticks in which a processor had nothing to do are not wanted.
    """
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return 0, 0
    return steal, user + nice + system + irq + softirq + steal


_BEGAN = _processors()


def save(path: Path, content: dict) -> Path:
    """Write JSON as all results are written, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path
