"""The small files of a finished run, to be committed: `python -m experiments.export RUN FOLDER`.

Its figures, and as CSV its summary, its claims, the curves (mean over runs, where it was tested)
and the last numbers of each run.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report import finished
from experiments.report.csv_text import csv_text
from experiments.report.statistics import mean_over_runs

LARGEST = 400_000  # bytes of an SVG; beyond, the PNG is the smaller one
COPIED = ("summary.csv", "claims.csv", "config.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("folder", type=Path, help="where to put its files")
    options = parser.parse_args(arguments)
    if not (options.run / "metadata.json").is_file():
        print(f"{options.run} is no run: it has no metadata.json", file=sys.stderr)
        return 2
    try:
        status = finished.metadata(options.run)["status"]
        if status != "DONE":
            raise finished.Damaged(f"{options.run} is not finished: {status}")
        written = export(options.run, options.folder)
    except finished.Damaged as error:
        print(error, file=sys.stderr)
        return 2
    for path in written:
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


def export(run: Path, folder: Path) -> list[Path]:
    """Write the small files of a finished run, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in COPIED:
        if (run / name).exists():
            written.append(Path(shutil.copy(run / name, folder / name)))
    for svg in sorted((run / "figures").glob("*.svg")):
        small = svg if svg.stat().st_size <= LARGEST else svg.with_suffix(".png")
        written.append(Path(shutil.copy(small, folder / small.name)))
    rows = [row for row in finished.rows(run) if "network" in row]
    written.append(_write(folder / "curves.csv", _curves(rows)))
    written.append(_write(folder / "runs.csv", _last(rows)))
    written.append(_provenance(run, folder))
    return written


def _curves(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the mean of every number that is one a run."""
    curves = []
    for row in rows:
        if not any(key.startswith(("test_", "error")) for key in row):
            continue  # an epoch between two tests
        line: dict[str, Any] = {}
        for key, value in row.items():
            if not isinstance(value, np.ndarray):
                line[key] = value
            elif value.ndim == 1:
                mean = mean_over_runs(value)
                line |= {key: f"{mean.value:.6g}", f"{key}_of_mean": f"{mean.error:.2g}"}
        curves.append(line)
    return curves


def _last(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each run of each network: its last numbers."""
    last = {row["network"]: row for row in rows}
    lines = []
    for network, row in last.items():
        numbers = {k: v for k, v in row.items() if isinstance(v, np.ndarray) and v.ndim == 1}
        runs = min((len(v) for v in numbers.values()), default=0)
        lines += [
            {"network": network, "run": i} | {k: f"{v[i]:.6g}" for k, v in numbers.items()}
            for i in range(runs)
        ]
    return lines


def _provenance(run: Path, folder: Path) -> Path:
    """What a reader needs to make the files again, without the machine's own paths."""
    metadata = finished.metadata(run)
    kept = ("command", "started", "wall_seconds", "device", "git", "versions", "timings")
    path = folder / "metadata.json"
    path.write_text(json.dumps({key: metadata.get(key) for key in kept}, indent=2) + "\n")
    return path


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text(csv_text(rows, newline="\n"), newline="")
    return path


if __name__ == "__main__":
    sys.exit(main())
