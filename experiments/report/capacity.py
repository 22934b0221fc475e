"""Figure 7: the final test error over width and over parameters, and what the paper says of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator
from omegaconf import DictConfig

from experiments.report import figures, networks, significance
from experiments.report.content import Claim, Figure, Section, Table, Verdict, all_of
from experiments.report.pendulum import choices
from experiments.report.statistics import interval, is_less, mean_over_runs, percent, range_of

PAIRS = (("exact", "feedforward"), ("semi", "feedforward"), ("exact", "semi"))
SMALL = 3  # widths: the paper's "small number of hidden neurons" is the smallest three of ours

Errors = Mapping[str, np.ndarray]  # (widths, runs) of each network


def present(
    curves: Mapping[str, Mapping[int, Any]], *, config: DictConfig, folder: Path
) -> Section:
    """Curves by network and width, all networks at the same widths."""
    widths = np.array(list(next(iter(curves.values()))))
    errors = {
        name: np.array([c.test.error[-1] for c in of.values()]) for name, of in curves.items()
    }
    parameters = {
        name: np.array([c.num_parameters for c in of.values()]) for name, of in curves.items()
    }
    path = folder / "figures" / "fig7"
    _draw(path, widths, parameters, errors)
    samples = config.final_num_test or config.num_test
    return Section(
        title="Figure 7: width and parameters",
        question=f"The damped oscillator of figure 6, {config.num_runs} runs of "
        f"{config.num_epochs} epochs at each of {len(widths)} widths: what does width buy?",
        claims=[
            *_better_claims(widths, errors),
            *_better_claims(widths, errors, parameters),
            *_gap_claims(widths, errors),
        ],
        figures=[
            Figure(
                path,
                f"Final test error over hidden neurons (a) and over parameters (b), mean over "
                f"{config.num_runs} runs; shaded, the standard deviation of the mean.",
            )
        ],
        tables=[
            _errors(widths, parameters, errors, curves, samples),
            *_tests(widths, errors),
        ],
        choices=[
            *choices(config),
            f"Final test errors over {samples:,} test samples.",
            "At equal parameters: the feed-forward curve between two of its widths is a straight "
            "line in the logarithms of parameters and error, run by run.",
        ],
        summary=[
            networks.summary(
                {
                    "network": name,
                    "hidden": width,
                    "parameters": c.num_parameters,
                    "runs": config.num_runs,
                    "epochs": config.num_epochs,
                },
                c,
                {"test_error": c.test.error[-1]},
                without=("train_solver_steps", "adjoint_converged"),
            )
            for name, of in curves.items()
            for width, c in of.items()
        ],
    )


def at_parameters(wanted: np.ndarray, parameters: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Errors (widths, runs) between their widths, at other numbers of parameters: (wanted, runs).

    NaN beyond the curve's ends: nothing was trained there.
    """
    x, log = np.log(wanted), np.log(errors)
    inside = (wanted >= parameters[0]) & (wanted <= parameters[-1])
    columns = [np.exp(np.interp(x, np.log(parameters), run)) for run in log.T]
    return np.where(inside[:, None], np.stack(columns, axis=1), np.nan)


def _better_claims(
    widths: np.ndarray, errors: Errors, parameters: Mapping[str, np.ndarray] | None = None
) -> list[Claim]:
    """Better than the feed-forward network of the same width, or of as many parameters."""
    claims = []
    for a, b in networks.pairs_of(errors, PAIRS[:2]):
        if parameters is None:
            places, twin = widths, errors[b]
            words = (
                'better, "much better", than the feed-forward network of the same width (fig. 7a)'
            )
        else:
            places, twin = parameters[a], at_parameters(parameters[a], parameters[b], errors[b])
            words = "better than a feed-forward network of as many parameters (fig. 7b)"
        known = np.isfinite(twin).any(axis=1)
        if not known.any():
            continue
        ratios = np.nanmean(errors[a][known], axis=1) / np.nanmean(twin[known], axis=1)
        times = [f"{r:.2f} times at {at}" for r, at in zip(ratios, places[known], strict=True)]
        verdicts = [is_less(*pair)[0] for pair in zip(errors[a][known], twin[known], strict=True)]
        claims.append(_everywhere(f"{networks.label(a)} is {words}", verdicts, ", ".join(times)))
    return claims


def _gap_claims(widths: np.ndarray, errors: Errors) -> list[Claim]:
    """The semi-gradient's gap: there in small networks, and smaller in wide ones."""
    if "semi" not in errors or "exact" not in errors or len(widths) < 2:
        return []
    # Relative: all errors fall with width, and so would the gap between any two of them.
    gap = errors["semi"] / errors["exact"] - 1
    small = min(SMALL, len(widths) - 1)
    there, size = is_less(np.zeros(gap.shape[1]), np.mean(gap[:small], axis=0))
    slope = np.polyfit(np.log(widths), np.nan_to_num(gap), 1)[0]
    closes, fall = is_less(slope, np.zeros_like(slope))
    return [
        Claim(
            paper="The semi-gradient is worse in small networks, and its disadvantage becomes "
            "smaller with width (fig. 7a)",
            verdict=all_of([there, closes]),
            found=f"semi-gradient / exact − 1 is {-size.value:.1%} ± {size.error:.1%} over the "
            f"{small} smallest widths, {np.nanmean(gap[-1]):.1%} at the widest; its slope over "
            f"ln(width) is {fall.value:.1%} ± {fall.error:.1%}",
        )
    ]


def _everywhere(paper: str, verdicts: list[Verdict], times: str) -> Claim:
    """A claim about every place: partly if it holds at some."""
    holds = verdicts.count(Verdict.HOLDS)
    verdict = Verdict.PARTLY
    if holds == len(verdicts):
        verdict = Verdict.HOLDS
    elif not holds:
        verdict = Verdict.FAILS if Verdict.FAILS in verdicts else Verdict.UNDECIDED
    return Claim(
        paper=paper,
        verdict=verdict,
        found=f"by 2 standard errors of the paired difference at {holds} of {len(verdicts)}; "
        f"its error is {times}",
    )


def _errors(
    widths: np.ndarray,
    parameters: Mapping[str, np.ndarray],
    errors: Errors,
    curves: Mapping[str, Mapping[int, Any]],
    samples: int,
) -> Table:
    rows = [
        (
            str(width),
            networks.label(name),
            str(parameters[name][i]),
            str(mean_over_runs(errors[name][i])),
            range_of(interval(errors[name][i])),
            percent(float(curves[name][int(width)].test.converged[-1].mean())),
        )
        for i, width in enumerate(widths)
        for name in errors
    ]
    return Table(
        title="Final test errors",
        columns=("hidden", "network", "parameters", "test error", "95 % interval", "converged"),
        rows=rows,
        note=f"Mean ± standard deviation of the mean over the runs; {samples:,} test samples, "
        "without those whose equilibrium was not reached.",
    )


def _tests(widths: np.ndarray, errors: Errors) -> list[Table]:
    rows = [
        (f"{width}: {networks.label(a)} − {networks.label(b)}", errors[a][i], errors[b][i])
        for a, b in networks.pairs_of(errors, PAIRS)
        for i, width in enumerate(widths)
    ]
    return [significance.paired("Differences at each width", rows)] if rows else []


def _draw(
    path: Path, widths: np.ndarray, parameters: Mapping[str, np.ndarray], errors: Errors
) -> None:
    with figures.drawing(path, 10, 4.2, nrows=1, ncols=2, sharey=True) as (figure, (left, right)):
        figure.suptitle("Figure 7: final test error of networks of different width")
        for name, values in errors.items():
            style = figures.look(name)
            figures.mean_band(left, widths, values, style)
            figures.mean_band(right, parameters[name], values, style._replace(label=""))
            for axes, x in ((left, widths), (right, parameters[name])):
                axes.plot(x, np.nanmean(values, axis=1), "o", color=style.color, markersize=4)
        left.set(title="(a) over width", xlabel="hidden neurons", ylabel="mean squared error")
        right.set(title="(b) over parameters", xlabel="parameters")
        for axes in (left, right):
            axes.set_xscale("log")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        right.xaxis.set_major_formatter("{x:g}")
        right.xaxis.set_minor_locator(NullLocator())
        left.set_xticks(widths, [str(width) for width in widths])
        left.xaxis.set_minor_locator(NullLocator())
        figures.log_errors(left)
        figure.legend(loc="outside lower center", ncols=len(errors))
