"""Where figures go, and what must stand beside them: hardware, versions, date."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLDER = Path(__file__).parent / "results"


def hardware() -> dict:
    """The machine, in words that a stranger can compare with theirs."""
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
    """None where it is not installed: an engine by itself can be measured without Ray."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(name: str, figures: dict) -> Path:
    """`bench/results/<name>.json`; returns its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(
        json.dumps(
            {"date": datetime.now(UTC).isoformat(timespec="seconds"), **hardware(), **figures},
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )
    return path
