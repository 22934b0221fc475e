"""Figure 6: train and test errors of the three networks, and what their order says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.report import convergence, figures, significance
from experiments.report.content import Claim, Figure, Section, Table, Verdict, all_of
from experiments.report.statistics import interval, is_less, mean_over_runs, range_of

PAIRS = (("exact", "semi"), ("semi", "feedforward"), ("exact", "feedforward"))
PAPER_EPOCHS = 400


def present(curves: Mapping[str, Any], *, config: DictConfig, folder: Path) -> Section:
    path = folder / "figures" / "fig6"
    _draw(path, curves, config)
    final = {name: _final_errors(c, config) for name, c in curves.items()}
    pairs = [(a, b) for a, b in PAIRS if a in curves and b in curves]
    return Section(
        summary=_summary(curves, config),
        title="Figure 6: the damped oscillator",
        question=f"A network sees a damped oscillator at {config.data.num_times} times and names "
        f"its ω₀ and δ. {config.num_runs} runs, {config.num_epochs} epochs of "
        f"{config.steps_per_epoch} steps: which network errs least?",
        claims=[
            *(_order_claim(kind, final, pairs) for kind in ("test", "train") if pairs),
            *_spread_claim(curves),
        ],
        figures=[
            Figure(path, _caption(config)),
            convergence.figure(folder / "figures" / "convergence", curves),
        ],
        tables=[
            _errors(curves, final, config),
            *([_differences(final, pairs)] if pairs else []),
            convergence.table(curves),
        ],
        choices=[*choices(config), _scale(config)],
    )


def _final_errors(curves: Any, config: DictConfig) -> dict[str, np.ndarray]:
    """One number a run. A single epoch's train error is noisy, so it is the mean of the last."""
    last = curves.training.error[-config.eval_every :]
    return {"train": np.mean(last, axis=0), "test": curves.test.error[-1]}


def _summary(curves: Mapping[str, Any], config: DictConfig) -> list[dict[str, Any]]:
    rows = []
    for name, c in curves.items():
        row = {"network": name, "runs": config.num_runs, "epochs": config.num_epochs}
        row["parameters"] = c.num_parameters
        for kind, errors in _final_errors(c, config).items():
            mean = mean_over_runs(errors)
            row[f"{kind}_error"] = mean.value
            row[f"{kind}_error_of_mean"] = mean.error
        row["train_converged"] = c.training.converged.mean()
        row["test_converged"] = c.test.converged[-1].mean()
        row["test_converged_worst_run"] = c.test.converged[-1].min()
        row["train_solver_steps"] = c.training.solver_steps.mean()
        row["test_solver_steps"] = c.test.solver_steps[-1].mean()
        row["adjoint_converged"] = c.training.adjoint_converged.mean()
        row["rejected_steps"] = c.training.rejected.mean()
        rows.append(row)
    return rows


def _errors(
    curves: Mapping[str, Any], final: Mapping[str, dict[str, np.ndarray]], config: DictConfig
) -> Table:
    rows = [
        (
            figures.look(name).label,
            str(c.num_parameters),
            *(
                text
                for kind in ("train", "test")
                for text in (
                    str(mean_over_runs(final[name][kind])),
                    range_of(interval(final[name][kind])),
                )
            ),
        )
        for name, c in curves.items()
    ]
    return Table(
        title=f"Mean squared errors after {config.num_epochs} epochs, {config.num_runs} runs",
        columns=(
            "network",
            "weights",
            "train error",
            "95 % interval",
            "test error",
            "95 % interval",
        ),
        rows=rows,
        note="Mean ± standard deviation of the mean; intervals by Student's t. The test error is "
        f"over {config.final_num_test or config.num_test:,} samples, without those whose "
        "equilibrium was not reached; the train error over the last "
        f"{min(config.eval_every, config.num_epochs)} epochs.",
    )


def _differences(final: Mapping[str, dict[str, np.ndarray]], pairs: list[tuple[str, str]]) -> Table:
    rows = [
        (
            f"{kind}: {figures.look(a).label} − {figures.look(b).label}",
            final[a][kind],
            final[b][kind],
        )
        for kind in ("test", "train")
        for a, b in pairs
    ]
    return significance.paired("Differences, run by run", rows)


def _order_claim(
    kind: str, final: Mapping[str, dict[str, np.ndarray]], pairs: list[tuple[str, str]]
) -> Claim:
    """The paper's order, neighbour by neighbour."""
    neighbours = pairs if len(pairs) == 1 else pairs[:2]
    found, verdicts = [], []
    for a, b in neighbours:
        verdict, difference = is_less(final[a][kind], final[b][kind])
        verdicts.append(verdict)
        found.append(f"{figures.look(a).label} − {figures.look(b).label} = {difference}")
    order = [neighbours[0][0], *(b for _, b in neighbours)]
    part = {"train": "fig. 6a", "test": "fig. 6b"}[kind]
    return Claim(
        paper=f"{kind.capitalize()} error: "
        f"{' < '.join(figures.look(name).label for name in order)} ({part})",
        verdict=all_of(verdicts),
        found="; ".join(found) + " (a difference counts from 2 standard errors on)",
    )


def _spread_claim(curves: Mapping[str, Any]) -> list[Claim]:
    """The standard deviation over runs, averaged over the epochs."""
    if "feedforward" not in curves or len(curves) < 2:
        return []
    spread = {
        name: float(np.mean(np.nanstd(c.training.error, axis=1))) for name, c in curves.items()
    }
    others = [value for name, value in spread.items() if name != "feedforward"]
    verdict = Verdict.PARTLY
    if spread["feedforward"] > max(others):
        verdict = Verdict.HOLDS
    elif spread["feedforward"] < min(others):
        verdict = Verdict.FAILS
    values = ", ".join(f"{figures.look(name).label} {s:.4f}" for name, s in spread.items())
    return [
        Claim(
            paper="The feed-forward network's train error varies much more between runs (fig. 6a)",
            verdict=verdict,
            found=f"standard deviation over runs, mean over epochs: {values}",
        )
    ]


def choices(config: DictConfig) -> list[str]:
    """What was chosen where the paper is silent, in words."""
    data = config.data
    low, high = config.output_range
    last = (data.num_times - 1) * data.time_step
    return [
        f"{data.num_times} time points, t = 0 to {last:g} in steps of {data.time_step:g}.",
        f'x₀ and v₀ with standard deviation {data.initial_std:g} ("N(0, 2)").',
        f'Batches of {config.batch_size}: our reading of "200 gradient steps over six batches". '
        "Each step draws its samples at random from the training set.",
        f"A sigmoid cannot leave (0, 1): outputs {low:g} and {high:g} stand for the ends of the "
        "ranges of ω₀ and δ, and errors are in units of these ranges.",
        "Adam starts from Q, T uniform in [−0.5, 0.5] and W, R zero, as in the paper.",
    ]


def _scale(config: DictConfig) -> str:
    data = config.data
    return (
        f"{config.num_epochs} epochs (the paper: {PAPER_EPOCHS}) and "
        f"{config.final_num_test or config.num_test:,} of "
        f"{data.num_samples // data.test_every:,} test samples; +experiment=pendulum_full runs "
        "them all."
    )


def _caption(config: DictConfig) -> str:
    return (
        f"Train error of each epoch (a) and test error (b), mean over {config.num_runs} runs; "
        "shaded, the standard deviation of the mean. In units of the ranges of ω₀ and δ, squared."
    )


def _draw(path: Path, curves: Mapping[str, Any], config: DictConfig) -> None:
    with figures.drawing(path, 10, 4.2, nrows=1, ncols=2, sharex=True, sharey=True) as (
        figure,
        (left, right),
    ):
        hidden = "+".join(map(str, config.model.hidden))
        figure.suptitle(f"Figure 6: damped oscillator, networks with {hidden} hidden neurons")
        for name, c in curves.items():
            style = figures.look(name)
            figures.mean_band(
                left, np.arange(1, 1 + len(c.training.error)), c.training.error, style
            )
            later = c.epochs > 0  # before training all errors are alike, and large
            unlabelled = style._replace(label="")
            figures.mean_band(right, c.epochs[later], c.test.error[later], unlabelled)
        left.set(title="(a) train error", xlabel="epoch", ylabel="mean squared error")
        right.set(title="(b) test error", xlabel="epoch")
        figures.log_errors(left)
        figure.legend(loc="outside lower center", ncols=len(curves))
