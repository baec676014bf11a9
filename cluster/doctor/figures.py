"""Arithmetic over weighted samples: a kept trace stands for as many requests as its adjusted count says."""

from __future__ import annotations

import math
from collections.abc import Sequence

Weighted = Sequence[tuple[float, float]]  #: (value, weight)


def mean(samples: Weighted) -> float:
    """Return the weighted mean; 0 where there are no samples."""
    total = sum(weight for _, weight in samples)
    return sum(value * weight for value, weight in samples) / total if total else 0.0


def quantile(samples: Weighted, share: float) -> float:
    """Return the smallest value at or below which `share` of the weight lies; 0 where there are no samples."""
    ordered = sorted(samples)
    left = share * sum(weight for _, weight in ordered)
    for value, weight in ordered:
        left -= weight
        if left <= 1e-9:
            return value
    return ordered[-1][0] if ordered else 0.0


def wilson(good: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share, of which `good` of `count` were seen; (0, 1) where none were."""
    if count <= 0:
        return 0.0, 1.0
    share = min(max(good / count, 0.0), 1.0)
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - spread) / (1 + z * z / count)), min(1.0, (middle + spread) / (1 + z * z / count))


def successes(weights: Sequence[float], heaviest: float, failures: float) -> tuple[float, float]:
    """Return the 95 % interval of the share of successes, where all failures were kept, and successes by chance.

    The number of successes is uncertain too: one that was kept with weight `w` adds `w (w - 1)` to its variance.

    Args:
        weights: Of the successes that were kept.
        heaviest: The weight of successes of which perhaps none was kept.
        failures: How many there were.
    """
    seen, spread = math.fsum(weights), 2 * math.sqrt(math.fsum(weight * (weight - 1) for weight in weights))
    fewest, most = max(0.0, seen - spread), seen + spread + (3 * heaviest if heaviest > 1 else 0)
    return wilson(fewest, fewest + failures)[0], wilson(most, most + failures)[1]


def percent(share: float) -> str:
    """Return '15 %', '0.4 %'."""
    share *= 100
    return f"{share:.1f} %" if 0 < share < 9.95 and round(share, 1) != round(share) else f"{share:.0f} %"


def ms(value: float) -> str:
    """Return '412 ms', '12.3 s'; '0 ms' below a twentieth of one."""
    if value < 0.05:
        return "0 ms"
    return f"{value / 1000:.1f} s" if value >= 9_999.5 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def count(number: float) -> str:
    """Return '1,204'."""
    return f"{round(number):,}"


def plural(number: float, noun: str) -> str:
    """Return '1 request', '1,204 requests'."""
    return f"{count(number)} {noun}" if round(number) == 1 else f"{count(number)} {noun}s"
