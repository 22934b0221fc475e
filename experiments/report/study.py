"""A study of one's own: errors of the three networks, intervals and tests, as for the paper's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.report import convergence, figures, networks
from experiments.report.content import Figure, Section

Shapes = tuple[tuple[int, int], tuple[int, int], int]  # of train x and test x; number of outputs


def present(
    curves: Mapping[str, Any], shapes: Shapes, *, config: DictConfig, folder: Path
) -> Section:
    (num_train, inputs), (num_test, _), outputs = shapes
    name = config.data._target_.rsplit(".", 1)[-1]
    classes = bool(np.isfinite(next(iter(curves.values())).test.accuracy).any())
    path = folder / "figures" / "study"
    _draw(path, curves, classes, title=f"{name}: networks of {_hidden(config)}")
    kinds = ("error", "accuracy") if classes else ("error",)
    final = {k: {n: getattr(c.test, k)[-1] for n, c in curves.items()} for k in kinds}
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
        tables=[
            networks.errors(
                f"After {config.num_epochs} epochs, {config.num_runs} runs",
                {f"test {kind}": samples for kind, samples in final.items()},
                curves,
                "Samples whose equilibrium was not reached are left out.",
            ),
            *networks.differences("Differences, run by run", final),
            convergence.table(curves),
        ],
        choices=[],
        summary=[
            networks.summary(
                {
                    "network": n,
                    "runs": config.num_runs,
                    "epochs": config.num_epochs,
                    "parameters": c.num_parameters,
                },
                c,
                {f"test_{kind}": samples[n] for kind, samples in final.items()},
                without=("train_solver_steps",),
            )
            for n, c in curves.items()
        ],
    )


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
