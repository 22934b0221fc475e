"""How well the equilibria and their gradients were solved while training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report import figures
from experiments.report.content import Figure, Table
from experiments.report.statistics import percent


def table(curves: Mapping[str, Any]) -> Table:
    """One row a network; curves as `experiments.pendulum` collects them."""
    rows = []
    for name, c in curves.items():
        train, test = c.training, c.test
        rows.append(
            (
                figures.look(name).label,
                percent(float(train.converged.mean())),
                percent(float(train.converged.min())),
                percent(float(train.adjoint_converged.mean())),
                f"{train.solver_steps.mean():.1f}",
                percent(float(train.rejected.mean())),
                percent(float(test.converged[-1].mean())),
                percent(float(test.converged[-1].min())),
                f"{test.solver_steps[-1].mean():.1f}",
            )
        )
    return Table(
        title="Equilibria",
        columns=(
            "network",
            "train:\nconverged",
            "worst\nepoch, run",
            "adjoint\nconverged",
            "solver\nsteps",
            "steps\nrejected",
            "last test:\nconverged",
            "worst\nrun",
            "solver\nsteps",
        ),
        rows=rows,
        note="Fractions of the samples, and of the training steps after which the guard took steps "
        "back; solver steps per sample.",
    )


def figure(path: Path, curves: Mapping[str, Any]) -> Figure:
    """Draw the same over the epochs, mean over the runs."""
    panels = (
        ("(a) not converged", lambda t: 1 - t.converged),
        ("(b) solver steps a sample", lambda t: t.solver_steps),
        ("(c) adjoint not converged", lambda t: 1 - t.adjoint_converged),
        ("(d) steps with a rejection", lambda t: t.rejected),
    )
    with figures.drawing(path, 11, 3.2, nrows=1, ncols=4, sharex=True) as (drawn, axes):
        for i, (ax, (title, values)) in enumerate(zip(axes, panels, strict=True)):
            for name, c in curves.items():
                style = figures.look(name)
                epochs = np.arange(1, 1 + len(c.training.error))
                ax.plot(
                    epochs,
                    values(c.training).mean(axis=1),
                    color=style.color,
                    linestyle=style.dashes,
                    linewidth=1.2,
                    label=style.label if i == 0 else "",
                )
            ax.set(title=title, xlabel="epoch")
            highest = max(values(c.training).mean(axis=1).max() for c in curves.values())
            top = max(highest, 1e-3)  # nothing is drawn as nothing
            ax.set_ylim(-0.03 * top, 1.05 * top)  # zeros above the axis
        drawn.legend(loc="outside lower center", ncols=len(curves))
    return Figure(path, "Convergence while training, mean over the runs of each epoch.")
