"""The order of figure 6's test errors under each reading of what the paper leaves open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.report import figures, networks
from experiments.report.content import Claim, Figure, Section, Table
from experiments.report.statistics import mean_over_runs, percent

Readings = Mapping[str, Mapping[str, Any]]  # curves by reading and network


def present(readings: Readings, *, config: DictConfig, folder: Path) -> Section:
    path = folder / "figures" / "choices"
    _draw(path, readings)
    last = {
        _words(name): {network: _last(c) for network, c in curves.items()}
        for name, curves in readings.items()
    }
    return Section(
        title="Choices where the paper is silent",
        question=f"Figure 6 under other readings, {config.num_runs} runs of {config.num_epochs} "
        f"epochs, {config.num_test:,} test samples: does the order of the test errors change?",
        claims=[
            _claim(name, samples) for name, samples in last.items() if networks.pairs_of(samples)
        ],
        figures=[
            Figure(path, "Test error: mean over the runs with its standard deviation, and each run")
        ],
        tables=[_errors(readings), *networks.differences("Differences, run by run", last)],
        choices=[],
        summary=[
            networks.summary(
                {"reading": name, "network": network, "parameters": c.num_parameters},
                c,
                {"test_error": _last(c)},
                without=("train_solver_steps", "test_solver_steps", "adjoint_converged"),
            )
            for name, curves in readings.items()
            for network, c in curves.items()
        ],
    )


def _words(reading: str) -> str:
    return reading.replace("_", " ")


def _last(curves: Any) -> np.ndarray:
    return curves.test.error[-1]


def _claim(name: str, samples: networks.Samples) -> Claim:
    names, verdict, found = networks.order(samples)
    return Claim(paper=f"{names} ({name})", verdict=verdict, found=found)


def _errors(readings: Readings) -> Table:
    rows = []
    for name, curves in readings.items():
        errors = {network: mean_over_runs(_last(c)) for network, c in curves.items()}
        order = sorted(errors, key=lambda network: errors[network].value)
        converged = min(float(c.test.converged[-1].mean()) for c in curves.values())
        rows.append(
            (_words(name), *map(str, errors.values()), " < ".join(order), percent(converged))
        )
    labels = (networks.label(network) for network in next(iter(readings.values())))
    return Table(
        title="Test errors",
        columns=("reading", *labels, "order of the means", "converged,\nworst network"),
        rows=rows,
        note="Mean ± standard deviation of the mean; samples without an equilibrium are left out.",
    )


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
