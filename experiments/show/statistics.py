"""Means over runs, and what may be concluded from them."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from experiments.show.content import Verdict


class Mean(NamedTuple):
    """Mean over the runs that have a number, and its standard deviation (NaN of a single run)."""

    value: float
    error: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "none"
        text = f"{self.value:.4f}".replace("-", "−")
        return text if math.isnan(self.error) else f"{text} ± {self.error:.4f}"


def mean_over_runs(values: ArrayLike) -> Mean:
    """Mean and standard deviation of the mean of one number a run; NaN stands for no number."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Mean(value=math.nan, error=math.nan)
    spread = finite.std(ddof=1) / math.sqrt(finite.size) if finite.size > 1 else math.nan
    return Mean(value=float(finite.mean()), error=float(spread))


def is_less(a: ArrayLike, b: ArrayLike) -> tuple[Verdict, Mean]:
    """Whether a is less than b over runs paired by seed: decided from two standard errors on."""
    difference = mean_over_runs(np.asarray(a, float) - np.asarray(b, float))
    if not abs(difference.value) > 2 * difference.error:
        return Verdict.UNDECIDED, difference
    return (Verdict.HOLDS if difference.value < 0 else Verdict.FAILS), difference


def percent(fraction: float) -> str:
    """A fraction in percent, never rounded up to 100 or down to 0."""
    if fraction in (0.0, 1.0):
        return f"{fraction:.0%}"
    return f"{min(max(100 * fraction, 0.01), 99.99):.2f}%"
