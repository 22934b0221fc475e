"""Several runs side by side: markdown, CSV and a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report import figures, significance
from experiments.report.content import Table
from experiments.report.csv_text import csv_text
from experiments.report.finished import Result
from experiments.report.statistics import interval, mean_over_runs, percent, range_of

# Settings that say how a run was shown or stored, not what was computed.
SILENT = ("name", "eval_every", "checkpoint_every", "tensorboard", "test_chunk")
LONGEST = 90  # characters of a label


def write(results: Sequence[Result], folder: Path) -> str:
    """Write comparison.md, .csv, .png and .svg, and return the markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    varied = differing(results)
    text = "\n".join(
        markdown(table) for table in (_table(results, varied), *_tests(results, varied))
    )
    (folder / "comparison.md").write_text(text)
    rows = [_row(result, varied) for result in results]
    (folder / "comparison.csv").write_text(csv_text(rows), newline="")
    _draw(folder / "comparison", results, varied)
    return text


def differing(results: Sequence[Result]) -> list[str]:
    """The settings in which two runs of one network differ."""
    keys: dict[str, None] = {}
    for network in dict.fromkeys(result.network for result in results):
        settings = [result.settings for result in results if result.network == network]
        for key in dict.fromkeys(key for s in settings for key in s):
            if len({repr(s.get(key)) for s in settings}) > 1 and key not in SILENT:
                keys[key] = None
    return list(keys)


def markdown(table: Table) -> str:
    """A table as GitHub's markdown."""
    lines = [f"### {table.title}", ""]
    head = [column.replace("\n", " ") for column in table.columns]
    for row in (head, ["---"] * len(head), *table.rows):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join([*lines, "", table.note, ""])


def _table(results: Sequence[Result], varied: list[str]) -> Table:
    rows = [
        (
            result.network,
            *(_value(result.settings.get(key)) for key in varied),
            str(len(result.values)),
            str(mean_over_runs(result.values)),
            range_of(interval(result.values)),
            percent(result.converged) if np.isfinite(result.converged) else "–",
            str(result.folder),
        )
        for result in results
    ]
    metric = _metrics(results)
    return Table(
        title=f"{len({result.folder for result in results})} runs",
        columns=("network", *varied, "runs", metric, "95 % interval", "converged", "folder"),
        rows=rows,
        note="Mean ± standard deviation of the mean; the interval by Student's t.",
    )


def _metrics(results: Sequence[Result]) -> str:
    """What the numbers are; runs of several experiments may have several."""
    return " or ".join(dict.fromkeys(result.metric.replace("_", " ") for result in results))


def _tests(results: Sequence[Result], varied: list[str]) -> list[Table]:
    """Every result against the first one of its network, where the runs are the same seeds."""
    pairs, unpaired = [], 0
    for network in dict.fromkeys(result.network for result in results):
        first, *others = [result for result in results if result.network == network]
        for other in others:
            if paired(first, other):
                label = f"{network}: {_label(other, varied)} − {_label(first, varied)}"
                pairs.append((label, other.values, first.values))
            else:
                unpaired += 1
    if not pairs:
        return []
    table = significance.paired("Each against the first of its network", pairs)
    if unpaired:
        more = f" {unpaired} more have other seeds or another number of runs, and no pairs."
        table = table._replace(note=table.note + more)
    return [table]


def paired(a: Result, b: Result) -> bool:
    return len(a.values) == len(b.values) and a.settings.get("seed") == b.settings.get("seed")


def _row(result: Result, varied: list[str]) -> dict[str, Any]:
    mean, ends = mean_over_runs(result.values), interval(result.values)
    return {
        "network": result.network,
        **{key: result.settings.get(key) for key in varied},
        "runs": len(result.values),
        result.metric: mean.value,
        f"{result.metric}_of_mean": mean.error,
        "interval_low": ends[0],
        "interval_high": ends[1],
        "converged": result.converged,
        "folder": str(result.folder),
    }


def _value(value: Any) -> str:
    """A setting as a cell: of a class's path its name."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    is_path = text.startswith(("irnn_jax.", "experiments.", "diffrax."))
    return text.rsplit(".", 1)[-1] if is_path else text


def _label(result: Result, varied: list[str]) -> str:
    named = [
        f"{key.removesuffix('._target_').rsplit('.', 1)[-1].replace('_', ' ')} "
        f"{_value(result.settings.get(key))}"
        for key in varied
        if key in result.settings
    ]
    label = ", ".join(named)
    # Runs of several experiments differ in more than a figure has room for.
    return label if 0 < len(label) <= LONGEST else result.folder.name


def _draw(path: Path, results: Sequence[Result], varied: list[str]) -> None:
    height = 1.0 + 0.34 * len(results)
    with figures.drawing(path, 8.5, height) as (_, axes):
        seen: set[str] = set()
        for i, result in enumerate(results):
            mean, style = mean_over_runs(result.values), figures.look(result.network)
            axes.errorbar(
                mean.value,
                -i,
                xerr=np.nan_to_num(mean.error),
                color=style.color,
                marker="o",
                capsize=3,
                label="" if result.network in seen else style.label,
            )
            axes.plot(result.values, np.full(len(result.values), -i), "|", color=style.color)
            seen.add(result.network)
        labels = [f"{figures.look(r.network).label}: {_label(r, varied)}" for r in results]
        axes.set_yticks([-i for i in range(len(results))], labels)
        axes.set_ylim(0.5 - len(results), 0.5)
        axes.set_xlabel(f"{_metrics(results)}; a dash is one run")
