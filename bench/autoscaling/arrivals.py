"""When requests come: four loads, each the same at every run. Open loop: no request waits for another's answer."""

from __future__ import annotations

import numpy as np

SEED = 20261128


def _poisson(rates: np.ndarray, seed: int) -> np.ndarray:
    """Return the moments of arrivals at rates that hold for a second each."""
    chance = np.random.default_rng(seed)
    counts = chance.poisson(rates)
    return np.sort(np.repeat(np.arange(len(rates)), counts) + chance.random(counts.sum()))


def calm() -> np.ndarray:
    """Ten requests a second for twenty minutes."""
    return np.full(1200, 10.0)


def ramp() -> np.ndarray:
    """From 2 to 40 a second in ten minutes, five minutes there, and back in five."""
    return np.concatenate([np.linspace(2, 40, 600), np.full(300, 40.0), np.linspace(40, 2, 300), np.full(300, 2.0)])


def burst() -> np.ndarray:
    """Six a second, and four times 40 a second for two minutes, at odd distances."""
    rates = np.full(3600, 6.0)
    for begin in (300, 1100, 1700, 2800):
        rates[begin : begin + 120] = 40.0
    return rates


def day() -> np.ndarray:
    """A day in two hours: a quiet night, two humps, an evening, and gusts of half a minute."""
    at = np.linspace(0, 24, 7200)
    humps = [(9.5, 1.6, 22.0), (14.0, 2.0, 26.0), (20.5, 1.5, 16.0)]
    rates = np.full(len(at), 1.5)
    for hour, width, height in humps:
        rates += height * np.exp(-(((at - hour) / width) ** 2))
    chance = np.random.default_rng(SEED)
    for begin in chance.choice(7000, 24, replace=False):
        rates[begin : begin + 30] *= chance.uniform(1.3, 2.2)
    return rates


RATES = {"calm": calm, "ramp": ramp, "burst": burst, "day": day}


def recorded(name: str) -> np.ndarray:
    """Return the moments, in seconds, at which a load's requests come."""
    return _poisson(RATES[name](), SEED + sorted(RATES).index(name))
