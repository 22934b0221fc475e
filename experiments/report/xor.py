"""Figures 2 to 5: errors over the steps, truth tables, and how many seeds solve XOR."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter
from omegaconf import DictConfig

from experiments.report import figures
from experiments.report.content import Claim, Figure, Section, Table, Verdict
from experiments.report.gates import gate
from experiments.report.seeds import Seeds, representative, seeds_of

CLOSE = 0.03  # how far an entry of a truth table may be from the truth

PAPER = {  # (Y1, Y2) of each pattern in figures 3 and 5
    "exact": ((0.01, 0.98), (0.99, 0.01), (0.99, 0.01), (0.01, 0.00)),
    "semi": ((0.03, 0.02), (0.97, 0.98), (0.97, 0.00), (0.03, 0.02)),
}

Findings = tuple[list[Table], list[Claim]]


def present(
    answers: Mapping[str, Any],
    stride: int,
    target: np.ndarray,
    *,
    config: DictConfig,
    folder: Path,
) -> Section:
    everyone = {name: seeds_of(name, a, stride, config) for name, a in answers.items()}
    path = folder / "figures" / "fig2b_fig4b"
    _draw(path, list(everyone.values()), config)
    tables = [_counts(everyone, config)]
    claims: list[Claim] = []
    for name, find in (("exact", _exact), ("semi", _semi), ("feedforward", _feedforward)):
        if name in everyone:
            more_tables, more_claims = find(everyone[name], target, config)
            tables += more_tables
            claims += more_claims
    return Section(
        summary=_summary(everyone, answers, config),
        title="Figures 2 to 5: XOR with one layer",
        question="One layer of two neurons, all four patterns in every step, Adam, "
        f"{config.num_seeds} seeds: does the recurrence let Y1 compute XOR?",
        claims=claims,
        figures=[Figure(path, _caption(config))],
        tables=tables,
        choices=[
            f"A seed counts as solved when the mean squared error of Y1 is below "
            f"{config.solved_below:g} and all four equilibria are reached.",
            f"{config.num_steps:,} steps; the paper does not say how many it took.",
            "The truth tables show one seed: of those that are solved in the end, the one with "
            "the median error. The paper shows one run.",
        ],
    )


def _exact(seeds: Seeds, target: np.ndarray, config: DictConfig) -> Findings:
    """Figures 2 and 3."""
    title = "Figure 3: exact IRN, only Y1 is trained"
    table, worst = _truth_table(title, seeds, target, list(config.networks.exact.trained))
    claims = [
        _solves("The IRN solves XOR with only Y1 trained (fig. 2)", seeds, config),
        _close("Its Y1 is close to the truth (fig. 3: 0.01 and 0.99)", worst),
        _nor_claim(seeds),
    ]
    return [table, *_gates(seeds)], claims


def _semi(seeds: Seeds, target: np.ndarray, config: DictConfig) -> Findings:
    """Figures 4 and 5."""
    title = "Figure 5: semi-gradient IRN, Y1 and Y2 are trained"
    table, worst = _truth_table(title, seeds, target, list(config.networks.semi.trained))
    claims = [
        _solves("The semi-gradient IRN solves XOR with Y1 and Y2 trained (fig. 4)", seeds, config),
        _close("Its outputs are close to the truth (fig. 5: 0.03 and 0.97)", worst),
    ]
    return [table], claims


def _feedforward(seeds: Seeds, target: np.ndarray, config: DictConfig) -> Findings:
    """Section 2.3."""
    ever, count = int(seeds.solved.any(axis=0).sum()), seeds.error.shape[1]
    claim = Claim(
        paper="A one-layer feed-forward network cannot solve XOR",
        verdict=Verdict.FAILS if ever else Verdict.HOLDS,
        found=f"{ever} of {count} seeds at any time; median error "
        f"{np.nanmedian(seeds.error[-1]):.3f}; always answering 0.5 gives 0.25",
    )
    return [], [claim]


def _summary(
    everyone: Mapping[str, Seeds], answers: Mapping[str, Any], config: DictConfig
) -> list[dict[str, Any]]:
    rows = []
    for name, seeds in everyone.items():
        early = seeds.at(config.compare_at)
        rows.append(
            {
                "network": name,
                "seeds": seeds.error.shape[1],
                "steps": seeds.steps[-1],
                "compared_at": seeds.steps[early],
                "solved_early": int(seeds.solved[early].sum()),
                "solved": int(seeds.solved[-1].sum()),
                "solved_ever": int(seeds.solved.any(axis=0).sum()),
                "solved_trained_outputs": int(seeds.trained_solved[-1].sum()),
                "median_error": np.nanmedian(seeds.error[-1]),
                "median_error_trained_outputs": np.nanmedian(seeds.trained_error[-1]),
                "converged": answers[name].converged[-1].mean(),
                "converged_while_training": answers[name].converged.mean(),
                "mean_solver_steps": answers[name].solver_steps.mean(),
            }
        )
    return rows


def _counts(everyone: Mapping[str, Seeds], config: DictConfig) -> Table:
    rows = []
    for name, seeds in everyone.items():
        early = seeds.at(config.compare_at)
        kinds = [("Y1", seeds.error, seeds.solved)]
        if len(config.networks[name].trained) > 1:
            kinds.append(("Y1 and Y2", seeds.trained_error, seeds.trained_solved))
        for outputs, error, solved in kinds:
            counts = (solved[early].sum(), solved[-1].sum(), solved.any(axis=0).sum())
            median = f"{np.nanmedian(error[-1]):.2g}"
            rows.append((figures.look(name).label, outputs, *map(str, counts), median))
    any_seeds = next(iter(everyone.values()))
    compared = any_seeds.steps[any_seeds.at(config.compare_at)]
    return Table(
        title=f"Seeds solved, of {config.num_seeds}, and the error in the end",
        columns=(
            "network",
            "error of",
            f"{compared:,} steps",
            f"{config.num_steps:,} steps",
            "ever",
            "median error",
        ),
        rows=rows,
        note="Training on can lose a solution again: where a new pair of equilibria is born on its "
        "way, the flow from Y = 0 ends there instead. The guard takes such steps back.",
    )


def _truth_table(
    title: str, seeds: Seeds, target: np.ndarray, trained: list[int]
) -> tuple[Table, float]:
    """The table, and how far its worst trained entry is from the truth."""
    seed, words = representative(seeds)
    output = seeds.output[seed]
    solved = seeds.trained_solved[-1]
    mean = seeds.output[solved].mean(axis=0) if solved.any() else np.full_like(output, np.nan)
    rows = []
    for i, (truth, answer) in enumerate(zip(target, output, strict=True)):
        wanted = [f"{truth[k]:.0f}" if k in trained else "any" for k in (0, 1)]
        means = [f"{mean[i, k]:.2f}" if solved.any() else "none" for k in trained]
        paper, here = ([f"{y:.2f}" for y in ys] for ys in (PAPER[seeds.network][i], answer))
        rows.append((str(i // 2), str(i % 2), *wanted, *paper, *here, *means))
    columns = ("X1", "X2")
    columns += tuple(f"{what} Y{k}" for what in ("target", "paper", "here") for k in (1, 2))
    columns += tuple(f"mean Y{k + 1}" for k in trained)
    note = f"{words} The means are over all solved seeds."
    worst = float(np.abs(output - target)[:, trained].max())
    return Table(title=title, columns=columns, rows=rows, note=note), worst


def _gates_of(seeds: Seeds) -> Counter[str]:
    """What Y2 became in the solved seeds."""
    return Counter(map(gate, seeds.output[seeds.solved[-1], :, 1]))


def _gates(seeds: Seeds) -> list[Table]:
    rows = [(name, str(count)) for name, count in _gates_of(seeds).most_common()]
    title = "What Y2 learned to help Y1 (exact IRN, solved seeds)"
    return [Table(title, ("Y2, rounded", "seeds"), rows)] if rows else []


def _solves(paper: str, seeds: Seeds, config: DictConfig) -> Claim:
    early, end = seeds.at(config.compare_at), len(seeds.steps) - 1
    solved = [int(seeds.trained_solved[k].sum()) for k in (early, end)]
    share = solved[0] / seeds.error.shape[1]
    return Claim(
        paper=paper,
        verdict=_by_share(share),
        found=f"{solved[0]} of {seeds.error.shape[1]} seeds after {seeds.steps[early]:,} steps, "
        f"{solved[1]} after {seeds.steps[end]:,}",
    )


def _close(paper: str, worst: float) -> Claim:
    return Claim(
        paper=paper,
        verdict=Verdict.HOLDS if worst < CLOSE else Verdict.FAILS,
        found=f"in the table's seed the entry farthest from the truth misses it by {worst:.3f}",
    )


def _nor_claim(seeds: Seeds) -> Claim:
    gates = _gates_of(seeds)
    nor, total = gates["X1 NOR X2"], sum(gates.values())
    common = ", ".join(f"{name} in {count}" for name, count in gates.most_common(3))
    return Claim(
        paper="Y2 learns a NOR gate, which supports Y1 (fig. 3)",
        verdict=_by_share(nor / total) if total else Verdict.UNDECIDED,
        found=f"Y2 is NOR in {nor} of {total} solved seeds; most common: {common or 'none'}",
    )


def _by_share(share: float) -> Verdict:
    """An existence claim: most seeds, some, or none."""
    if share > 0.5:
        return Verdict.HOLDS
    return Verdict.PARTLY if share else Verdict.FAILS


def _caption(config: DictConfig) -> str:
    return (
        f"Left: mean squared error of Y1 over the training steps, median and quartiles over "
        f"{config.num_seeds} seeds. Right: share of seeds whose error is below "
        f"{config.solved_below:g}."
    )


def _draw(path: Path, everyone: list[Seeds], config: DictConfig) -> None:
    with figures.drawing(path, 10, 3.8, nrows=1, ncols=2) as (figure, (left, right)):
        figure.suptitle("Figures 2b and 4b: one-layer networks learning XOR")
        for seeds in everyone:
            style = figures.look(seeds.network)
            low, median, high = np.nanquantile(seeds.error, (0.25, 0.5, 0.75), axis=1)
            figures.band(left, seeds.steps, low, median, high, style)
            share = seeds.solved.mean(axis=1)
            right.plot(seeds.steps, share, color=style.color, linestyle=style.dashes)
        left.axhline(config.solved_below, color="black", linewidth=0.8, linestyle=":")
        left.annotate(
            "solved below",
            (1, config.solved_below),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        left.set_yscale("log")
        left.set(title="(a) error", xlabel="training step", ylabel="mean squared error of Y1")
        right.set(title="(b) solved seeds", xlabel="training step", ylabel="share of seeds")
        right.set_ylim(-0.03, 1.03)
        right.yaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(loc="outside lower center", ncols=len(everyone))
