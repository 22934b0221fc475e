"""A grid of numbers that were varied inside one run: a row a point, and the best of them."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig

from experiments.report import figures, significance
from experiments.report.content import Figure, Section, Table
from experiments.report.settings import by_point, points
from experiments.report.statistics import mean_over_runs, percent


class Outcome(NamedTuple):
    """One network's last error and fraction converged, (lanes,)."""

    error: np.ndarray
    converged: np.ndarray


class Line(NamedTuple):
    """One line of the figure: errors (values, runs) over the values of the longest key."""

    label: str
    error: np.ndarray


def present(
    outcomes: Mapping[str, Outcome], *, question: str, config: DictConfig, folder: Path
) -> Section:
    places = points(config.vary)
    split = {
        name: Outcome(*(by_point(leaf, len(places)) for leaf in outcome))
        for name, outcome in outcomes.items()
    }
    path = folder / "figures" / "sweep"
    _draw(path, split, places, config)
    return Section(
        title=f"{config.name}: {' × '.join(_short(key) for key in places[0])}",
        question=question,
        claims=[],
        figures=[Figure(path, "Mean over the runs; bars, the standard deviation of the mean.")],
        tables=[_table(split, places), _differences(split, places)],
        choices=[],
        summary=_summary(split, places),
    )


def _summary(split: Mapping[str, Outcome], points: list[dict[str, float]]) -> list[dict[str, Any]]:
    rows = []
    for name, outcome in split.items():
        for point, error, converged in zip(points, *outcome, strict=True):
            mean = mean_over_runs(error)
            rows.append(
                {
                    "network": name,
                    **point,
                    "runs": len(error),
                    "error": mean.value,
                    "error_of_mean": mean.error,
                    "converged": converged.mean(),
                    "converged_worst_run": converged.min(),
                }
            )
    return rows


def _table(split: Mapping[str, Outcome], points: list[dict[str, float]]) -> Table:
    rows = []
    for name, outcome in split.items():
        best = _best(outcome)
        for i, (point, error, converged) in enumerate(zip(points, *outcome, strict=True)):
            rows.append(
                (
                    figures.look(name).label,
                    *(f"{value:g}" for value in point.values()),
                    str(mean_over_runs(error)) + (" *" if i == best else ""),
                    percent(float(converged.mean())),
                )
            )
    return Table(
        title="Every point of the grid",
        columns=("network", *map(_short, points[0]), "error", "converged"),
        rows=rows,
        note="Mean ± standard deviation of the mean over the runs, which start from the same "
        "weights at every point; * the least of a network.",
    )


def _differences(split: Mapping[str, Outcome], points: list[dict[str, float]]) -> Table:
    pairs = []
    for name, outcome in split.items():
        best = _best(outcome)
        for i, point in enumerate(points):
            if i != best:
                label = f"{figures.look(name).label}: {_words(point)}"
                pairs.append((label, outcome.error[i], outcome.error[best]))
    return significance.paired("Each point less the network's best one", pairs)


def _best(outcome: Outcome) -> int:
    means = [mean_over_runs(row).value for row in outcome.error]
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))


def _lines(
    outcome: Outcome, points: list[dict[str, float]], longest: str, values: list[float]
) -> Iterator[Line]:
    """The network's lines, one for each combination of the other keys."""
    others = [key for key in points[0] if key != longest]
    choices = itertools.product(*(dict.fromkeys(point[key] for point in points) for key in others))
    for choice in choices:
        fixed = dict(zip(others, choice, strict=True))
        index = [points.index({**points[0], **fixed, longest: value}) for value in values]
        yield Line(label=_words(fixed), error=outcome.error[index])


def _draw(
    path: Path, split: Mapping[str, Outcome], points: list[dict[str, float]], config: DictConfig
) -> None:
    longest = max(points[0], key=lambda key: len(config.vary[key]))
    values = list(dict.fromkeys(point[longest] for point in points))
    with figures.drawing(
        path, 1.2 + 3.3 * len(split), 3.8, nrows=1, ncols=len(split), sharey=True, squeeze=False
    ) as (figure, axes):
        for ax, (name, outcome) in zip(axes[0], split.items(), strict=True):
            for i, line in enumerate(_lines(outcome, points, longest, values)):
                means = [mean_over_runs(row) for row in line.error]
                ax.errorbar(
                    # A little apart, or bars of lines that agree would hide each other.
                    np.arange(len(values)) + 0.04 * i,
                    [mean.value for mean in means],
                    np.nan_to_num([mean.error for mean in means]),
                    color=figures.COLORS[i % len(figures.COLORS)],
                    marker="o",
                    markersize=4,
                    capsize=2,
                    label=line.label,
                )
            # Values are often powers and 0: evenly spaced, each with its own label.
            ax.set_xticks(range(len(values)), [f"{value:g}" for value in values])
            ax.set(title=figures.look(name).label, xlabel=_short(longest))
        axes[0][0].set_ylabel("error")
        if len(points[0]) > 1:
            handles = axes[0][0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower center", ncols=3)


def _words(point: Mapping[str, float]) -> str:
    return ", ".join(f"{_short(key)} {value:g}" for key, value in point.items())


def _short(key: str) -> str:
    """`optimizer.learning_rate.lateral` as `learning rate lateral`."""
    return key.removeprefix("optimizer.").replace(".", " ").replace("_", " ")
