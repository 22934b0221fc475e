"""This library beside its peers: time, memory, gradient error, in one run on the same inputs.

    python -m benchmarks.suite                            # all regimes, some 12 minutes
    python -m benchmarks.suite --quick                    # a glance, some 2 minutes
    python -m benchmarks.suite --regimes c --json c.json --figure c.png
    python -m benchmarks.suite --table c.json             # Markdown for docs/performance.md

Regimes (`benchmarks/regimes.py`): a tiny nets, a whole training in one loop; b small nets;
c wide nets; d forwards only; e the stiff ones among these; f the device filled (GPU only).
Contenders are in `benchmarks/peers/`; install the peers by `pip install -r benchmarks/peers.txt`.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from benchmarks import floor
from benchmarks.measure import Row, Session, measure
from benchmarks.peers import CONTENDERS
from benchmarks.peers.base import Contender
from benchmarks.regimes import CELLS, REGIMES, TOLERANCES, Cell, is_stiff
from benchmarks.show import figure, legend, markdown, rich_table
from benchmarks.timing import machine


def chosen(regimes: Sequence[str], quick: bool) -> list[Cell]:
    """The cells of the regimes, e standing for the stiff ones of all others."""
    gpu = jax.default_backend() == "gpu"
    return [
        cell
        for cell in CELLS
        if (cell.regime in regimes or ("e" in regimes and is_stiff(cell)))
        and (cell.quick or not quick)
        and (gpu or not cell.gpu_only)
    ]


def run(
    cells: Sequence[Cell],
    dtypes: Sequence[str],
    contenders: Sequence[Contender],
    session: Session,
    console: Console,
) -> tuple[list[Row], dict[str, float], str]:
    """Measure cell by cell, each printed as it is done: rows, floors in seconds, the machine."""
    machines = {dtype: floor.machine(dtype) for dtype in dtypes}
    description = machine()
    for dtype, able in machines.items():
        description += (
            f"; {dtype}: {able.flops / 1e9:.0f} GFLOP/s in a matrix product, "
            f"{able.bytes / 1e9:.1f} GB/s in a copy, {able.sigmoids / 1e6:.0f} M sigmoids/s"
        )
    rows: list[Row] = []
    floors: dict[str, float] = {}
    for cell in cells:
        for dtype in (dtype for dtype in cell.dtypes if dtype in dtypes):
            begin = time.perf_counter()
            measured = measure(cell, dtype, contenders, session)
            rows += measured
            least = floor.seconds(cell, dtype, machines[dtype])
            floors[f"{cell.label}|{dtype}"] = least
            console.print(rich_table((cell.label, dtype), measured, least))
            console.print(f"{time.perf_counter() - begin:.0f} s")
    return rows, floors, description


def save(path: Path, rows: Sequence[Row], floors: dict[str, float], description: str) -> None:
    """Everything that tables and figures are made of."""
    content = {
        "machine": description,
        "floors": floors,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> tuple[list[Row], dict[str, float], str]:
    """What `save` wrote."""
    content: dict[str, Any] = json.loads(path.read_text())
    return [Row(**row) for row in content["rows"]], content["floors"], content["machine"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=REGIMES)
    parser.add_argument("--dtypes", nargs="+", default=list(TOLERANCES), choices=TOLERANCES)
    parser.add_argument("--only", nargs="+", help="only contenders with one of these in the name")
    parser.add_argument("--quick", action="store_true", help="few cells, few rounds: noisy")
    parser.add_argument("--json", type=Path, help="where to save the results")
    parser.add_argument("--figure", type=Path, help="where to draw them, as .png and .svg")
    parser.add_argument("--table", type=Path, help="print saved results as Markdown, and stop")
    args = parser.parse_args()
    console = Console(width=150)

    if args.table:
        rows, floors, description = load(args.table)
        print(markdown(rows, floors, description))
    else:
        jax.config.update("jax_enable_x64", True)
        contenders = [
            contender
            for contender in CONTENDERS
            if not args.only or any(word in contender.name for word in args.only)
        ]
        dtypes = args.dtypes[:1] if args.quick else args.dtypes
        session = Session(quick=args.quick, budget=1.5 if args.quick else 6.0)
        cells = chosen(args.regimes, args.quick)
        rows, floors, description = run(cells, dtypes, contenders, session, console)
        console.print(legend())
        console.print(description)
    if args.json:
        save(args.json, rows, floors, description)
    if args.figure:
        figure(rows, args.figure)


if __name__ == "__main__":
    main()
