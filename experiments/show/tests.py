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
        columns=("", "runs", "mean ± its standard deviation", "95 % interval"),
        rows=rows,
        note="Intervals of the mean, by Student's t.",
    )


def paired(title: str, pairs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Table:
    """One row a pair (label, a, b); a and b hold one number a run, paired by run."""
    rows = []
    for label, a, b in pairs:
        c = compare(a, b)
        tests = (p_value(c.t_test), p_value(c.wilcoxon), number(c.effect, 2))
        rows.append((label, str(c.difference), range_of(c.interval), *tests))
    return Table(
        title=title,
        columns=(
            "difference",
            "mean ± its\nstandard deviation",
            "95 % interval",
            "paired t-test\np",
            "Wilcoxon\np",
            "effect\nd",
        ),
        rows=rows,
        note="Run by run: the same first weights and the same batches. Two-sided p values, not "
        "corrected for the number of tests; d is the mean difference in units of the "
        "differences' standard deviation.",
    )
