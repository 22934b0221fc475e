"""The one style of all figures, and how they are saved: as PNG and, byte by byte the same, SVG."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import ArrayLike

from experiments.report.statistics import mean_over_runs

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "irnn_jax",  # element names that do not change from run to run
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's


class Look(NamedTuple):
    """How a network is drawn: by colour and by dashes, so that grey prints tell them apart."""

    label: str
    color: str
    dashes: Any


LOOKS = {
    "feedforward": Look("feed-forward", "#555555", (0, (1, 1))),
    "semi": Look("semi-gradient IRN", COLORS[1], (0, (5, 1.5))),
    "exact": Look("exact IRN", COLORS[0], "-"),
}


def look(name: str) -> Look:
    """The look of a network; those that the paper lacks share one, under their own name."""
    return LOOKS.get(name, Look(name, COLORS[2], "-."))


@contextlib.contextmanager
def drawing(
    path: Path, width: float, height: float, **subplots: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure in our style and its axes; saved as path.png and path.svg in the end.

    Not pyplot, which keeps global state and may look for a screen.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**subplots)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def band(
    axes: Axes, x: ArrayLike, low: ArrayLike, middle: ArrayLike, high: ArrayLike, style: Look
) -> None:
    """A curve in a shaded band."""
    axes.plot(x, middle, color=style.color, linestyle=style.dashes, label=style.label)
    axes.fill_between(x, low, high, color=style.color, alpha=0.2, linewidth=0)


def mean_band(axes: Axes, x: ArrayLike, values: np.ndarray, style: Look) -> None:
    """Mean over runs of values (points, runs), in a band of its standard deviation."""
    means = [mean_over_runs(row) for row in values]
    middle = np.array([mean.value for mean in means])
    width = np.nan_to_num([mean.error for mean in means])
    band(axes, x, middle - width, middle, middle + width, style)


def log_errors(axes: Axes) -> None:
    """A logarithmic axis of errors, which seldom span a decade: plain numbers, close together."""
    axes.set_yscale("log")
    plain_numbers(axes.yaxis, (1, 2, 3, 4, 5, 6, 8))


def plain_numbers(axis: Axis, leading: tuple[int, ...]) -> None:
    """On a logarithmic axis, those that begin with one of these digits."""
    axis.set_major_locator(LogLocator(subs=leading))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
