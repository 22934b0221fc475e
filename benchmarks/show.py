"""The suite's results as rich tables, as Markdown and as a figure."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.measure import Row
from benchmarks.regimes import ACCEPTED, Task

COLUMNS = ("time", "× best", "compile s", "temp MB", "gradient error", "unconverged", "note")
PANELS = 5  # in a row of the figure


def cells_of(rows: Iterable[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    """Rows by (cell, dtype), in the order in which they were measured."""

    def key(row: Row) -> tuple[str, str]:
        return row.cell, row.dtype

    return [(cell, list(group)) for cell, group in itertools.groupby(rows, key)]


def counts(row: Row) -> bool:
    """Whether the row's answer is good enough for its time to be compared."""
    if row.seconds is None or "semi-gradient" in row.contender or "twin" in row.contender:
        return False
    converged = row.unconverged is None or row.unconverged == 0
    return converged if row.error is None else bool(row.accepted)


def time_of(row: Row) -> str:
    """The time in the task's unit."""
    if row.seconds is None:
        return row.status
    if row.task == Task.FORWARD.value:
        return f"{row.equilibria / row.seconds / 1e6:.3g} M/s"
    if row.task == Task.TRAINING.value:
        return f"{row.seconds * 1e6:,.0f} µs"
    return f"{row.seconds * 1e3:,.3g} ms" if row.seconds < 1 else f"{row.seconds:,.1f} s"


def cells_in(row: Row, best: float) -> list[str]:
    """One line of a table."""
    if row.seconds is None:
        return [row.contender, row.status, *[""] * (len(COLUMNS) - 1)]
    return [
        row.contender,
        time_of(row),
        f"{row.seconds / best:.2f}" if math.isfinite(best) else "",
        "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}",
        "n/a" if row.memory is None else f"{row.memory / 1e6:.2f}",
        "" if row.error is None else f"{row.error:.0e}" + ("" if row.accepted else " ✗"),
        "" if row.unconverged is None else f"{max(row.unconverged, 0):.1%}",
        row.note,
    ]


def best_of(rows: Sequence[Row]) -> float:
    """The least time among the rows that count."""
    return min((row.seconds for row in rows if counts(row) and row.seconds), default=math.inf)


def rich_table(cell: tuple[str, str], rows: Sequence[Row], floor: float | None) -> Table:
    """One cell."""
    table = Table(title=f"{cell[0]}, {cell[1]}: {rows[0].task}", caption=floor_line(rows, floor))
    for column in ("contender", *COLUMNS):
        left = column in ("contender", "note")
        table.add_column(column, justify="left" if left else "right")
    best = best_of(rows)
    for row in rows:
        table.add_row(*cells_in(row, best), style="" if counts(row) else "dim")
    return table


def floor_line(rows: Sequence[Row], floor: float | None) -> str:
    """How far the default is from the floor."""
    ours = [row for row in rows if row.contender == "irnn_jax default" and row.seconds]
    if floor is None or not ours or ours[0].seconds is None:
        return ""
    ratio = ours[0].seconds / floor
    return f"floor {floor * 1e6:,.3g} µs; irnn_jax default is {ratio:,.1f} times that"


def legend() -> str:
    """What the columns mean."""
    accepted = ", ".join(f"{bound:g} in {dtype}" for dtype, bound in ACCEPTED.items())
    return (
        "× best: of the times whose gradient error is within bounds "
        f"({accepted}; forwards: whose samples all converged), the twin and the semi-gradient left "
        "out. ✗: out of bounds. unconverged: samples with a residual above 100 times the tolerance."
    )


def markdown(rows: Sequence[Row], floors: dict[str, float], machine: str) -> str:
    """The tables of docs/performance.md."""
    lines = [machine, ""]
    for cell, group in cells_of(rows):
        lines += [f"**{cell[0]}, {cell[1]}**", ""]
        lines += ["| contender | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        best = best_of(group)
        lines += ["| " + " | ".join(cells_in(row, best)) + " |" for row in group]
        lines += ["", floor_line(group, floors.get("|".join(cell))), ""]
    return "\n".join([*lines, legend(), ""])


def figure(rows: Sequence[Row], path: Path) -> None:
    """A panel for each cell: time on a logarithmic axis, grey where the answer is out of bounds."""
    from experiments.report.figures import COLORS, drawing

    groups = cells_of(rows)
    names = list(dict.fromkeys(row.contender for row in rows))
    across = min(PANELS, len(groups))
    down = math.ceil(len(groups) / across)
    height = down * (0.19 * len(names) + 0.9)
    options: Any = {"nrows": down, "ncols": across, "sharey": True, "squeeze": False}
    with drawing(path, 3.2 + 2.3 * across, height, **options) as (_, grid):
        panels = [axes for line in grid for axes in line]
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        for axes, (cell, group) in zip(panels, groups, strict=False):
            _panel(axes, cell, group, names, COLORS)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)


def _panel(axes: Any, cell: tuple[str, str], rows: Sequence[Row], names: list[str], colors: Any):
    from experiments.report.figures import plain_numbers

    label, _, rest = cell[0].partition(", ")
    axes.set_title(f"{label}\n{rest}, {cell[1]}", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel(_axis(rows[0]), fontsize=8)
    axes.tick_params(labelsize=8)
    plain_numbers(axes.xaxis, (1, 2, 5))
    left = [value for row in rows if (value := _value(row)) is not None]
    for row in rows:
        value, y = _value(row), names.index(row.contender)
        if value is None:
            word = row.status.partition(":")[0]
            axes.text(min(left, default=1), y, word, fontsize=6, color="#888888", va="center")
            continue
        ours = row.contender.startswith("irnn_jax")
        color = colors[0] if ours else colors[1]
        if "twin" in row.contender or (row.error is None and "Picard, 30" in row.contender):
            color = "#222222"
        elif not counts(row):
            color = "#b5b5b5"
        axes.plot([value], [y], "o", color=color, markersize=5)


def _axis(row: Row) -> str:
    return {Task.FORWARD.value: "µs an equilibrium", Task.TRAINING.value: "µs a step"}.get(
        row.task, "ms a gradient"
    )


def _value(row: Row) -> float | None:
    if row.seconds is None:
        return None
    if row.task == Task.FORWARD.value:
        return row.seconds / row.equilibria * 1e6
    return row.seconds * (1e6 if row.task == Task.TRAINING.value else 1e3)
