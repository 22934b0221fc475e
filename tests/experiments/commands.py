"""The experiments as their users start them: commands in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SMALL = (
    "model.hidden=[2]",
    "data.num_times=3",
    "num_runs=4",
    "num_epochs=12",
    "steps_per_epoch=5",
    "eval_every=2",
    "num_test=10",
    "test_chunk=4",
)


def start(
    folder: Path, *overrides: str, cache: Path | None, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Begin, or go on with, a small pendulum in a folder."""
    command = ["-m", "experiments.pendulum", f"hydra.run.dir={folder}", *SMALL, *overrides]
    return subprocess.Popen(
        [sys.executable, *command, f"compilation_cache={cache or 'null'}"],
        cwd=ROOT,
        # Compiling is nearly all that it does.
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status, and what it wrote to stderr."""
    try:
        _, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    return process.returncode, errors


def results(folder: Path) -> list[bytes]:
    """What an interrupted run must have in common with an uninterrupted one, to the last byte."""
    names = ("metrics.jsonl", "summary.csv", "config.yaml", "figures/fig6.svg")
    return [(folder / name).read_bytes() for name in names]
