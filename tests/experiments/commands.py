"""The experiments as their users start them: commands in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
# Not by `preexec_fn`: the tests' own process has threads.
LIMITED = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
os.execv(sys.argv[2], sys.argv[2:])
"""
TWO_NETWORKS = ("~networks.semi",)


def start(
    folder: Path,
    *overrides: str,
    cache: Path | None,
    devices: int = 1,
    largest_file: int | None = None,
) -> subprocess.Popen[str]:
    """Begin, or go on with, a small pendulum in a folder."""
    command = [sys.executable, "-m", "experiments.pendulum", f"hydra.run.dir={folder}"]
    command += [*SMALL, *overrides, f"compilation_cache={cache or 'null'}"]
    if largest_file is not None:
        command = [sys.executable, "-c", LIMITED, str(largest_file), *command]
    flags = os.environ.get("XLA_FLAGS", "")
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ
        | {
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is nearly all that it does
        },
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


def metadata(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metadata.json").read_text())
