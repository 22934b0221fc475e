"""What is said of the networks of any experiment: which errs less, by how much, and how surely."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report import figures, significance
from experiments.report.content import Table, Verdict, all_of
from experiments.report.statistics import interval, is_less, mean_over_runs, range_of

PAIRS = (("exact", "semi"), ("semi", "feedforward"), ("exact", "feedforward"))

Samples = Mapping[str, np.ndarray]  # one number a run, by network
Pairs = Sequence[tuple[str, str]]


def label(network: str) -> str:
    return figures.look(network).label


def pairs_of(networks: Iterable[str], pairs: Pairs = PAIRS) -> list[tuple[str, str]]:
    """The pairs that can be compared, the one expected to err less first."""
    there = set(networks)
    return [pair for pair in pairs if there.issuperset(pair)]


def order(samples: Samples) -> tuple[str, Verdict, str]:
    """The expected order in words, the verdict on it, neighbour by neighbour, and the differences.

    There are two networks or more.
    """
    pairs = pairs_of(samples)
    neighbours = pairs if len(pairs) == 1 else pairs[:2]
    found, verdicts = [], []
    for a, b in neighbours:
        verdict, difference = is_less(samples[a], samples[b])
        verdicts.append(verdict)
        found.append(f"{label(a)} − {label(b)} = {difference}")
    names = [neighbours[0][0], *(b for _, b in neighbours)]
    return " < ".join(map(label, names)), all_of(verdicts), "; ".join(found)


def differences(title: str, samples: Mapping[str, Samples], pairs: Pairs = PAIRS) -> list[Table]:
    """A paired test for each pair in each of the named samples; no table without a pair."""
    rows = [
        (f"{name}: {label(a)} − {label(b)}", of[a], of[b])
        for name, of in samples.items()
        for a, b in pairs_of(of, pairs)
    ]
    return [significance.paired(title, rows)] if rows else []


def errors(title: str, kinds: Mapping[str, Samples], curves: Mapping[str, Any], note: str) -> Table:
    """A row a network, with mean and interval of every kind of error."""
    rows = []
    for name, c in curves.items():
        row = [label(name), str(c.num_parameters)]
        for samples in kinds.values():
            row += [str(mean_over_runs(samples[name])), range_of(interval(samples[name]))]
        rows.append(tuple(row))
    columns = [column for kind in kinds for column in (kind, "95 % interval")]
    note = "Mean ± standard deviation of the mean; intervals by Student's t. " + note
    return Table(title, ("network", "weights", *columns), rows, note)


def summary(
    start: Mapping[str, Any],
    c: Any,
    kinds: Mapping[str, np.ndarray],
    *,
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """A row of summary.csv: how it starts, its errors by name, and how well it was solved.

    Args:
        start: its first columns.
        c: the network's curves.
        kinds: errors by column, one number a run.
        without: columns to leave out.
    """
    row = dict(start)
    for kind, values in kinds.items():
        mean = mean_over_runs(values)
        row |= {kind: mean.value, f"{kind}_of_mean": mean.error}
    solved = {
        "train_converged": c.training.converged.mean(),
        "test_converged": c.test.converged[-1].mean(),
        "test_converged_worst_run": c.test.converged[-1].min(),
        "train_solver_steps": c.training.solver_steps.mean(),
        "test_solver_steps": c.test.solver_steps[-1].mean(),
        "adjoint_converged": c.training.adjoint_converged.mean(),
        "rejected_steps": c.training.rejected.mean(),
    }
    return row | {name: value for name, value in solved.items() if name not in without}
