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
    """Return the date, machine and versions of a measurement."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), **hardware()}


def save(path: Path, content: dict) -> Path:
    """Write JSON as all results are written, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path
