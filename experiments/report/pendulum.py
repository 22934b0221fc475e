"""Figure 6: train and test errors of the three networks, and what their order says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.report import convergence, figures, networks
from experiments.report.content import Claim, Figure, Section, Table, Verdict

PAPER_EPOCHS = 400


def present(curves: Mapping[str, Any], *, config: DictConfig, folder: Path) -> Section:
    path = folder / "figures" / "fig6"
    _draw(path, curves, config)
    # A single epoch's train error is noisy, so it is the mean of the last.
    last = config.eval_every
    train = {name: np.mean(c.training.error[-last:], axis=0) for name, c in curves.items()}
    test = {name: c.test.error[-1] for name, c in curves.items()}
    claims = []
    if networks.pairs_of(curves):
        claims += [_order_claim("Test", test, "fig. 6b"), _order_claim("Train", train, "fig. 6a")]
    return Section(
        summary=[
            networks.summary(
                {
                    "network": name,
                    "runs": config.num_runs,
                    "epochs": config.num_epochs,
                    "parameters": c.num_parameters,
                },
                c,
                {"train_error": train[name], "test_error": test[name]},
            )
            for name, c in curves.items()
        ],
        title="Figure 6: the damped oscillator",
        question=f"A network sees a damped oscillator at {config.data.num_times} times and names "
        f"its ω₀ and δ. {config.num_runs} runs, {config.num_epochs} epochs of "
        f"{config.steps_per_epoch} steps: which network errs least?",
        claims=[*claims, *_spread_claim(curves)],
        figures=[
            Figure(path, _caption(config)),
            convergence.figure(folder / "figures" / "convergence", curves),
        ],
        tables=[
            _errors(train, test, curves, config),
            *networks.differences("Differences, run by run", {"test": test, "train": train}),
            convergence.table(curves),
        ],
        choices=[*choices(config), _scale(config)],
    )


def _errors(
    train: networks.Samples, test: networks.Samples, curves: Mapping[str, Any], config: DictConfig
) -> Table:
    return networks.errors(
        f"Mean squared errors after {config.num_epochs} epochs, {config.num_runs} runs",
        {"train error": train, "test error": test},
        curves,
        f"The test error is over {config.final_num_test or config.num_test:,} samples, without "
        "those whose equilibrium was not reached; the train error over the last "
        f"{min(config.eval_every, config.num_epochs)} epochs.",
    )


def _order_claim(kind: str, samples: networks.Samples, part: str) -> Claim:
    names, verdict, found = networks.order(samples)
    return Claim(
        paper=f"{kind} error: {names} ({part})",
        verdict=verdict,
        found=f"{found} (a difference counts from 2 standard errors on)",
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
    values = ", ".join(f"{networks.label(name)} {s:.4f}" for name, s in spread.items())
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
