"""Means over runs, and what may be concluded from them."""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from experiments.report.content import Verdict


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


class Comparison(NamedTuple):
    """Two samples paired by run: a - b, and how surprising it would be if they were alike.

    Attributes:
        difference: mean of a - b with its standard deviation.
        interval: 95 % confidence interval of the difference, by Student's t.
        t_test: two-sided p of the paired t-test.
        wilcoxon: two-sided p of the signed-rank test, which assumes no normal distribution.
        effect: Cohen's d of the differences: their mean in units of their standard deviation.
        runs: pairs that have both numbers.
    """

    difference: Mean
    interval: tuple[float, float]
    t_test: float
    wilcoxon: float
    effect: float
    runs: int


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval of the mean by Student's t, NaN below two runs."""
    mean = mean_over_runs(values)
    runs = np.isfinite(np.asarray(values, float)).sum()
    if runs < 2:
        return math.nan, math.nan
    reach = float(scipy.stats.t.ppf((1 + level) / 2, runs - 1)) * mean.error
    return mean.value - reach, mean.value + reach


def compare(a: ArrayLike, b: ArrayLike) -> Comparison:
    """Compare two samples run by run; NaN where there are too few runs or no spread to judge by."""
    differences = np.asarray(a, float) - np.asarray(b, float)
    differences = differences[np.isfinite(differences)]
    difference = mean_over_runs(differences)
    t_test = wilcoxon = effect = math.nan
    if differences.size > 1 and difference.error > 0:
        t = difference.value / difference.error
        t_test = float(2 * scipy.stats.t.sf(abs(t), differences.size - 1))
        signed_rank: Any = scipy.stats.wilcoxon(differences)
        wilcoxon = float(signed_rank.pvalue)
        effect = t / math.sqrt(differences.size)
    return Comparison(
        difference=difference,
        interval=interval(differences),
        t_test=t_test,
        wilcoxon=wilcoxon,
        effect=effect,
        runs=differences.size,
    )


def number(value: float, digits: int = 4) -> str:
    """A number of fixed digits with a real minus; a dash for none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def range_of(ends: tuple[float, float], digits: int = 4) -> str:
    low, high = ends
    return "–" if math.isnan(low) else f"[{number(low, digits)}, {number(high, digits)}]"


def p_value(p: float) -> str:
    if math.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
