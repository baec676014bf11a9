"""When requests come: the same at every run of a seed. Open loop: no request waits for another's answer."""

from __future__ import annotations

import numpy as np

SEED = 20261128


def _poisson(rates: np.ndarray, seed: int) -> np.ndarray:
    """Return the moments of arrivals at rates that hold for a second each."""
    chance = np.random.default_rng(seed)
    counts = chance.poisson(rates)
    return np.sort(np.repeat(np.arange(len(rates)), counts) + chance.random(counts.sum()))


def calm(seed: int) -> np.ndarray:
    """Ten requests a second for twenty minutes."""
    return np.full(1200, 10.0)


def ramp(seed: int) -> np.ndarray:
    """From 2 to 40 a second in ten minutes, five minutes there, and back in five."""
    return np.concatenate([np.linspace(2, 40, 600), np.full(300, 40.0), np.linspace(40, 2, 300), np.full(300, 2.0)])


def burst(seed: int) -> np.ndarray:
    """Six a second, and four times 40 a second for two minutes, at odd distances."""
    rates = np.full(3600, 6.0)
    for begin in (300, 1100, 1700, 2800):
        rates[begin : begin + 120] = 40.0
    return rates


def day(seed: int) -> np.ndarray:
    """A day in two hours: a quiet night, two humps, an evening, and gusts of half a minute."""
    at = np.linspace(0, 24, 7200)
    humps = [(9.5, 1.6, 22.0), (14.0, 2.0, 26.0), (20.5, 1.5, 16.0)]
    rates = np.full(len(at), 1.5)
    for hour, width, height in humps:
        rates += height * np.exp(-(((at - hour) / width) ** 2))
    chance = np.random.default_rng(seed)
    for begin in chance.choice(7000, 24, replace=False):
        rates[begin : begin + 30] *= chance.uniform(1.3, 2.2)
    return rates


def sawtooth(seed: int) -> np.ndarray:
    """From 4 a second to 36 in ten minutes and at once back to 4, six times."""
    return np.tile(np.linspace(4, 36, 600), 6)


#: by name: a function from a seed to the rate of each second; only the day's gusts differ by seed
RATES = {"calm": calm, "ramp": ramp, "burst": burst, "day": day}
HELD_OUT = {"sawtooth": sawtooth}  #: no setting was chosen by these


def rates(name: str, seed: int = SEED) -> np.ndarray:
    """Return a load's requests a second, for each second."""
    return (RATES | HELD_OUT)[name](seed)


def recorded(name: str, seed: int = SEED) -> np.ndarray:
    """Return the moments, in seconds, at which a load's requests come."""
    return _poisson(rates(name, seed), seed + [*sorted(RATES), *sorted(HELD_OUT)].index(name))
