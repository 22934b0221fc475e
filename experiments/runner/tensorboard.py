"""TensorBoard logs of a run, with `tensorboard=true`: what metrics.jsonl holds, as scalars."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner.errors import BadConfig

Sink = Callable[[Mapping[str, Any]], None]
STEPS = ("epoch", "step")  # what a row may call its place on the horizontal axis


@contextlib.contextmanager
def board(folder: Path) -> Iterator[Sink]:
    """A sink for rows of metrics: a curve for each number of a network, its mean over the runs."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise BadConfig("tensorboard=true needs tensorboardX: pip install tensorboardX") from error
    writer = SummaryWriter(str(folder))

    def write(row: Mapping[str, Any]) -> None:
        step = next((int(row[key]) for key in STEPS if key in row), None)
        if "network" not in row or step is None:
            return
        for key, value in row.items():
            if key not in (*STEPS, "network"):
                values = np.asarray(value, float)
                values = values[np.isfinite(values)]
                if values.size:
                    writer.add_scalar(f"{key}/{row['network']}", float(values.mean()), step)

    try:
        yield write
    finally:
        writer.close()
