"""The files of this folder's measurements: summaries in the repository, single readings outside it."""

from __future__ import annotations

from pathlib import Path

from bench.measuring.records import about, save
from cluster.ray_head import ROOT

FOLDER = Path(__file__).parent / "results"
RAW = ROOT / "outputs" / "bench"


def write(name: str, figures: dict, raw: dict | None = None) -> Path:
    """Write `bench/results/<name>.json`, which is kept in the repository, and return its path.

    Args:
        name: Name of the measurement.
        figures: The summary that documents quote. The machine, the versions and the date are added.
        raw: Single readings, for a closer look at this one run: `outputs/bench/<name>.json`, which Git ignores.
    """
    if raw is not None:
        save(RAW / f"{name}.json", {**about(), **raw})
    return save(FOLDER / f"{name}.json", {**about(), **figures})
