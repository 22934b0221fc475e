"""A study of one's own: errors of the three networks, intervals and tests, as for the paper's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.report import convergence, figures, significance
from experiments.report.content import Figure, Section, Table
from experiments.report.statistics import interval, mean_over_runs, range_of

PAIRS = (("exact", "semi"), ("semi", "feedforward"), ("exact", "feedforward"))

Shapes = tuple[tuple[int, int], tuple[int, int], int]  # of train x and test x; number of outputs


def present(
    curves: Mapping[str, Any], shapes: Shapes, *, config: DictConfig, folder: Path
) -> Section:
    (num_train, inputs), (num_test, _), outputs = shapes
    name = config.data._target_.rsplit(".", 1)[-1]
    classes = bool(np.isfinite(next(iter(curves.values())).test.accuracy).any())
    path = folder / "figures" / "study"
    _draw(path, curves, classes, title=f"{name}: networks of {_hidden(config)}")
    final = {n: {"error": c.test.error[-1]} for n, c in curves.items()}
    if classes:
        for n, c in curves.items():
            final[n]["accuracy"] = c.test.accuracy[-1]
    return Section(
        title=f"Study: {name}",
        question=f"{inputs} inputs, {outputs} {'classes' if classes else 'outputs'}, "
        f"{num_train:,} training and {num_test:,} test samples; {config.num_runs} runs of "
        f"{config.num_epochs} epochs of {config.steps_per_epoch} steps with batches of "
        f"{config.batch_size}: which network errs least?",
        claims=[],
        figures=[
            Figure(path, "Mean over the runs; shaded, the standard deviation of the mean."),
            convergence.figure(folder / "figures" / "convergence", curves),
        ],
        tables=[_final(curves, final, config), *_differences(final), convergence.table(curves)],
        choices=[],
        summary=_summary(curves, final, config),
    )


def _final(
    curves: Mapping[str, Any], final: Mapping[str, dict[str, np.ndarray]], config: DictConfig
) -> Table:
    kinds = list(next(iter(final.values())))
    rows = []
    for name, c in curves.items():
        row = [figures.look(name).label, str(c.num_parameters)]
        for kind in kinds:
            values = final[name][kind]
            row += [str(mean_over_runs(values)), range_of(interval(values))]
        rows.append(tuple(row))
    columns = [column for kind in kinds for column in (f"test {kind}", "95 % interval")]
    return Table(
        title=f"After {config.num_epochs} epochs, {config.num_runs} runs",
        columns=("network", "weights", *columns),
        rows=rows,
        note="Mean ± standard deviation of the mean; intervals by Student's t. Samples whose "
        "equilibrium was not reached are left out.",
    )


def _differences(final: Mapping[str, dict[str, np.ndarray]]) -> list[Table]:
    rows = [
        (
            f"{kind}: {figures.look(a).label} − {figures.look(b).label}",
            final[a][kind],
            final[b][kind],
        )
        for kind in next(iter(final.values()))
        for a, b in PAIRS
        if a in final and b in final
    ]
    return [significance.paired("Differences, run by run", rows)] if rows else []


def _summary(
    curves: Mapping[str, Any], final: Mapping[str, dict[str, np.ndarray]], config: DictConfig
) -> list[dict[str, Any]]:
    rows = []
    for name, c in curves.items():
        row = {"network": name, "runs": config.num_runs, "epochs": config.num_epochs}
        row["parameters"] = c.num_parameters
        for kind, values in final[name].items():
            mean = mean_over_runs(values)
            row |= {f"test_{kind}": mean.value, f"test_{kind}_of_mean": mean.error}
        row["train_converged"] = c.training.converged.mean()
        row["test_converged"] = c.test.converged[-1].mean()
        row["test_converged_worst_run"] = c.test.converged[-1].min()
        row["test_solver_steps"] = c.test.solver_steps[-1].mean()
        row["adjoint_converged"] = c.training.adjoint_converged.mean()
        row["rejected_steps"] = c.training.rejected.mean()
        rows.append(row)
    return rows


def _draw(path: Path, curves: Mapping[str, Any], classes: bool, *, title: str) -> None:
    with figures.drawing(path, 10, 4.2, nrows=1, ncols=2) as (figure, (left, right)):
        figure.suptitle(title)
        for name, c in curves.items():
            style = figures.look(name)
            later = c.epochs > 0  # before training all errors are alike, and large
            figures.mean_band(left, c.epochs[later], c.test.error[later], style)
            values = c.test.accuracy[later] if classes else c.training.error
            epochs = c.epochs[later] if classes else np.arange(1, 1 + len(values))
            figures.mean_band(right, epochs, values, style._replace(label=""))
        left.set(title="(a) test error", xlabel="epoch", ylabel="loss")
        figures.log_errors(left)
        if classes:
            right.set(title="(b) test accuracy", xlabel="epoch", ylabel="fraction right")
        else:
            right.set(title="(b) train error", xlabel="epoch")
            figures.log_errors(right)
        figure.legend(loc="outside lower center", ncols=len(curves))


def _hidden(config: DictConfig) -> str:
    sizes = list(config.model.hidden)
    return f"{' + '.join(map(str, sizes))} hidden neurons" if sizes else "one layer"
