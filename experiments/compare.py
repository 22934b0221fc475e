"""Finished runs in one table and one figure: `python -m experiments.compare runs/A runs/B ...`.

What their configurations differ in becomes a column; a run with several networks, or with numbers
that were varied, gives several rows. Folders are searched for runs; a sweep's folder will do.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from experiments.report import comparison, finished
from experiments.report.finished import Result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders of them")
    parser.add_argument("--metric", help="a number a run in metrics.jsonl; test_error by default")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    missing = [folder for folder in options.folders if not folder.is_dir()]
    if missing:
        errors.print(f"there is no folder {missing[0]}")
        return 2
    done, others = finished.find(options.folders)
    for folder, status in others.items():
        errors.print(f"left out: {folder} is {status}")
    try:
        found = collect(done, options.metric)
    except finished.Damaged as error:
        errors.print(str(error))
        return 2
    if not found:
        metric = options.metric or " or ".join(finished.METRICS)
        errors.print(f"no finished run with a {metric} for each run in {_join(options.folders)}")
        return 2
    text = comparison.write(found, options.out)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(Markdown(text) if console.is_terminal else text)
    errors.print(f"Written: {options.out}/comparison.md, .csv, .png, .svg")
    return 0


def collect(folders: Sequence[Path], metric: str | None = None) -> list[Result]:
    """What the finished runs say, those of one network together."""
    found = [result for folder in folders for result in finished.results(folder, metric)]
    order = list(dict.fromkeys(result.network for result in found))
    return sorted(found, key=lambda result: order.index(result.network))


def _join(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


if __name__ == "__main__":
    sys.exit(main())
