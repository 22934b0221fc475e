"""Figure 1, and how far apart its two derivatives are."""

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.report import figures
from experiments.report.content import Claim, Figure, Section, Table, Verdict
from experiments.report.statistics import percent

CAPTION = (
    "The derivative dY/dW of one implicit neuron, from eq. 2 (lines) and as a central difference "
    "of the equilibrium (circles), over W at five X and over X at five W; below, their difference. "
    "Up to W = 4 there is one equilibrium. Beyond (shaded), the neuron has two stable ones for "
    "some X: a curve ends where its own vanishes, and starts again on the other."
)
PERFECT = 1e-6  # largest difference that a reader of fig. 1 would call a perfect fit


def present(
    W: np.ndarray,
    X: np.ndarray,
    points: Any,
    rows: list[dict[str, Any]],
    *,
    config: DictConfig,
    folder: Path,
) -> Section:
    path = folder / "figures" / "fig1"
    _draw(path, W, X, points, config)
    largest = rows[0]["formula_minus_numerical"]
    claim = Claim(
        paper='Eq. 2 "fits perfectly to numerical approximations of this derivative" (fig. 1)',
        verdict=Verdict.HOLDS if largest < PERFECT else Verdict.FAILS,
        found=f"largest difference {largest:.1e} over {rows[0]['points']:,} points with W < 4, "
        f"where the derivative reaches {rows[0]['largest_derivative']:.2f}",
    )
    return Section(
        summary=rows,
        title="Figure 1: the derivative of one implicit neuron",
        question="One neuron Y = f(W Y + Q X + T) with a weight onto itself: is its derivative "
        "by W, dY/dW = f' Y / (1 − f' W) (eq. 2), what moving W a little and looking again says?",
        claims=[claim],
        figures=[Figure(path, CAPTION)],
        tables=[_table(rows)],
        choices=[
            f"Q = {config.feedforward:g}, T = {config.bias:g}; {config.weights.count} W in "
            f"[{config.weights.low:g}, {config.weights.high:g}], {config.inputs.count} X in "
            f"[{config.inputs.low:g}, {config.inputs.high:g}].",
            f"A central difference with a step of {config.difference:g}; the paper divides the "
            "difference of neighbouring points by their distance.",
        ],
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    return Table(
        title="Largest differences between derivatives",
        columns=("", "points", "converged", "largest dY/dW", "eq. 2 − numerical", "eq. 2 − grad"),
        rows=[
            (
                row["kind"],
                f"{row['points']:,}",
                percent(row["converged"]),
                f"{row['largest_derivative']:.3g}",
                _scientific(row["formula_minus_numerical"]),
                _scientific(row["formula_minus_autodiff"]),
            )
            for row in rows
        ],
        note="grad: jax.grad through irnn_jax.apply. Next to a fold (1 − f'W < 0.05) the "
        "derivative grows without bound, and the finite difference is what is wrong.",
    )


def _draw(path: Path, W: np.ndarray, X: np.ndarray, points: Any, config: DictConfig) -> None:
    over_W = [(_equals("X", X[j]), np.s_[:, j]) for j in _nearest(X, config.shown_inputs)]
    over_X = [(_equals("W", W[i]), np.s_[i, :]) for i in _nearest(W, config.shown_weights)]
    with figures.drawing(
        path, 11, 5.5, nrows=2, ncols=2, sharex="col", sharey="row", height_ratios=(3, 1)
    ) as (figure, axes):
        figure.suptitle("Figure 1: derivative of one implicit neuron, by eq. 2 and numerically")
        for (upper, lower), grid, curves in zip(axes.T, (W, X), (over_W, over_X), strict=True):
            for color, (label, index) in zip(figures.COLORS, curves, strict=False):
                _curve(upper, lower, grid, type(points)(*(p[index] for p in points)), color, label)
            upper.plot([], [], "o", mfc="none", mec="black", ms=5, label="numerical")
            upper.legend(loc="upper left", bbox_to_anchor=(1, 1))
            upper.set_yscale("log")
            lower.set_yscale("log")
        if W[-1] > 4:
            for row in axes[:, 0]:
                row.axvspan(max(4, W[0]), W[-1], color="#f0e442", alpha=0.25, linewidth=0)
            axes[0, 0].text(
                4.05,
                0.02,
                "bistable\nfor some X",
                fontsize=7,
                transform=axes[0, 0].get_xaxis_transform(),
            )
        axes[0, 0].set(title="(a) over the recurrent weight", ylabel="dY/dW")
        axes[0, 1].set(title="(b) over the input")
        axes[1, 0].set(xlabel="recurrent weight W", ylabel="|difference|")
        axes[1, 1].set(xlabel="input X")


def _curve(upper: Any, lower: Any, grid: np.ndarray, points: Any, color: str, label: str) -> None:
    known = points.converged
    # Past a fold the flow goes to another branch: no line leads there.
    jump = np.abs(np.diff(points.equilibrium, prepend=points.equilibrium[:1])) > 0.3
    line = np.where(known & ~jump, points.formula, np.nan)
    upper.plot(grid, line, color=color, label=label)
    upper.plot(grid[known][::8], points.numerical[known][::8], "o", mfc="none", mec=color, ms=5)
    difference = np.abs(points.formula - points.numerical)
    lower.plot(grid[known], difference[known], ".", color=color, ms=3)


def _nearest(grid: np.ndarray, values: list[float]) -> list[int]:
    return [int(np.abs(grid - value).argmin()) for value in values]


def _equals(name: str, value: float) -> str:
    return f"{name} = {value:g}".replace("-", "−")


def _scientific(value: float) -> str:
    return f"{value:.1e}" if value else "0"
