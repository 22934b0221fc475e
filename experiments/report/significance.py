"""The table of paired tests, the same for every experiment."""

from collections.abc import Iterable

import numpy as np

from experiments.report.content import Table
from experiments.report.statistics import compare, number, p_value, range_of


def paired(title: str, pairs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Table:
    """One row a pair (label, a, b); a and b hold one number a run, paired by run."""
    rows = []
    for label, a, b in pairs:
        c = compare(a, b)
        tests = (p_value(c.t_test), p_value(c.wilcoxon), number(c.effect, 2))
        mean = f"{number(c.difference.value, 5)} ± {number(c.difference.error, 5)}"
        rows.append((label, mean, range_of(c.interval, 5), *tests))
    return Table(
        title=title,
        columns=("difference", "mean", "95 % interval", "p (t)", "p (W)", "d"),
        rows=rows,
        note="Mean ± standard deviation of the mean, run by run: the same first weights and the "
        "same batches. Two-sided p values of the paired t-test and of Wilcoxon's signed-rank test, "
        "not corrected for the number of tests; the effect d is the mean difference in units of "
        "the differences' standard deviation.",
    )
