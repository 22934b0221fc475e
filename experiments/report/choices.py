"""The order of figure 6's test errors under each reading of what the paper leaves open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.report import figures, significance
from experiments.report.content import Claim, Figure, Section, Table, all_of
from experiments.report.pendulum import PAIRS
from experiments.report.statistics import is_less, mean_over_runs, percent

Readings = Mapping[str, Mapping[str, Any]]  # curves by reading and network


def present(readings: Readings, *, config: DictConfig, folder: Path) -> Section:
    path = folder / "figures" / "choices"
    _draw(path, readings)
    networks = list(next(iter(readings.values())))
    pairs = [(a, b) for a, b in PAIRS if a in networks and b in networks]
    return Section(
        title="Choices where the paper is silent",
        question=f"Figure 6 under other readings, {config.num_runs} runs of {config.num_epochs} "
        f"epochs, {config.num_test:,} test samples: does the order of the test errors change?",
        claims=[_claim(name, curves, pairs) for name, curves in readings.items() if pairs],
        figures=[
            Figure(path, "Test error: mean over the runs with its standard deviation, and each run")
        ],
        tables=[_errors(readings), *([_differences(readings, pairs)] if pairs else [])],
        choices=[],
        summary=_summary(readings),
    )


def _words(reading: str) -> str:
    return reading.replace("_", " ")


def _last(curves: Any) -> np.ndarray:
    return curves.test.error[-1]


def _claim(name: str, curves: Mapping[str, Any], pairs: list[tuple[str, str]]) -> Claim:
    neighbours = pairs if len(pairs) == 1 else pairs[:2]
    verdicts, found = [], []
    for a, b in neighbours:
        verdict, difference = is_less(_last(curves[a]), _last(curves[b]))
        verdicts.append(verdict)
        found.append(f"{figures.look(a).label} − {figures.look(b).label} = {difference}")
    networks = (neighbours[0][0], *(b for _, b in neighbours))
    order = " < ".join(figures.look(network).label for network in networks)
    return Claim(
        paper=f"{order} ({_words(name)})", verdict=all_of(verdicts), found="; ".join(found)
    )


def _errors(readings: Readings) -> Table:
    rows = []
    for name, curves in readings.items():
        errors = {network: mean_over_runs(_last(c)) for network, c in curves.items()}
        order = sorted(errors, key=lambda network: errors[network].value)
        converged = min(float(c.test.converged[-1].mean()) for c in curves.values())
        rows.append(
            (_words(name), *map(str, errors.values()), " < ".join(order), percent(converged))
        )
    labels = (figures.look(network).label for network in next(iter(readings.values())))
    return Table(
        title="Test errors",
        columns=("reading", *labels, "order of the means", "converged,\nworst network"),
        rows=rows,
        note="Mean ± standard deviation of the mean; samples without an equilibrium are left out.",
    )


def _differences(readings: Readings, pairs: list[tuple[str, str]]) -> Table:
    rows = [
        (
            f"{_words(name)}: {figures.look(a).label} − {figures.look(b).label}",
            _last(curves[a]),
            _last(curves[b]),
        )
        for name, curves in readings.items()
        for a, b in pairs
    ]
    return significance.paired("Differences, run by run", rows)


def _summary(readings: Readings) -> list[dict[str, Any]]:
    rows = []
    for name, curves in readings.items():
        for network, c in curves.items():
            mean = mean_over_runs(_last(c))
            rows.append(
                {
                    "reading": name,
                    "network": network,
                    "parameters": c.num_parameters,
                    "test_error": mean.value,
                    "test_error_of_mean": mean.error,
                    "train_converged": c.training.converged.mean(),
                    "test_converged": c.test.converged[-1].mean(),
                    "test_converged_worst_run": c.test.converged[-1].min(),
                    "rejected_steps": c.training.rejected.mean(),
                }
            )
    return rows


def _draw(path: Path, readings: Readings) -> None:
    with figures.drawing(path, 8.5, 1.4 + 0.55 * len(readings)) as (figure, axes):
        networks = list(next(iter(readings.values())))
        for i, curves in enumerate(readings.values()):
            for k, (network, c) in enumerate(curves.items()):
                y = -i - 0.22 * (k - (len(networks) - 1) / 2)
                style, mean = figures.look(network), mean_over_runs(_last(c))
                axes.plot(_last(c), np.full(len(_last(c)), y), "|", color=style.color, alpha=0.5)
                axes.errorbar(
                    mean.value,
                    y,
                    xerr=np.nan_to_num(mean.error),
                    color=style.color,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    label="" if i else style.label,
                )
        axes.set_yticks([-i for i in range(len(readings))], [_words(name) for name in readings])
        axes.set_xlabel("mean squared test error")
        figure.legend(loc="outside lower center", ncols=len(networks))
