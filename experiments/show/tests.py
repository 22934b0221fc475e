"""Tables of confidence intervals and of paired tests, the same for every experiment."""

from collections.abc import Iterable, Mapping

import numpy as np

from experiments.show.content import Table
from experiments.show.statistics import (
    compare,
    interval,
    mean_over_runs,
    number,
    p_value,
    range_of,
)


def intervals(title: str, errors: Mapping[str, np.ndarray]) -> Table:
    """One row a sample, each one number a run."""
    rows = [
        (label, str(len(values)), str(mean_over_runs(values)), range_of(interval(values)))
        for label, values in errors.items()
    ]
    return Table(
        title=title,
        columns=("", "runs", "mean", "95 % interval"),
        rows=rows,
        note="Mean ± standard deviation of the mean; its interval by Student's t.",
    )


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
        columns=(
            "difference",
            "mean",
            "95 % interval",
            "p (t)",
            "p (W)",
            "d",
        ),
        rows=rows,
        note="Mean ± standard deviation of the mean, run by run: the same first weights and the "
        "same batches. Two-sided p values of the paired t-test and of Wilcoxon's signed-rank test, "
        "not corrected for the number of tests; the effect d is the mean difference in units of "
        "the differences' standard deviation.",
    )
