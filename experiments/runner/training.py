"""Running a training: all of its runs side by side, an epoch at a time, saved and resumed."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from experiments.runner.checkpoints import Checkpoints, Saved
from experiments.runner.devices import spread
from experiments.runner.errors import Stopped
from experiments.runner.history import Epoch, History, shapes
from experiments.runner.program import Program, Train
from experiments.runner.progress import Task
from experiments.runner.recording import Recording


def run(
    train: Train,
    keys: PRNGKeyArray,
    *,
    name: str,
    num_epochs: int,
    steps_per_epoch: int,
    eval_every: int,
    recording: Recording,
    task: Task,
    checkpoint_every: int = 1,
) -> Iterator[Epoch]:
    """Train all runs, and yield what is known before the first epoch and after each.

    The state is evaluated before the first epoch, every `eval_every` epochs and after the last. It
    is saved every `checkpoint_every` evaluations and after the last epoch. What the checkpoint of
    an interrupted run holds is yielded again, and not computed again.

    Args:
        train: the training of one run.
        keys: one key a run.
        name: of the training, unique within the recording.
        num_epochs: in all.
        steps_per_epoch: steps of each.
        eval_every: epochs between evaluations.
        recording: keeps the checkpoints, and says on which devices to run.
        task: shows the progress.
        checkpoint_every: evaluations between checkpoints.
    """
    layout = spread(recording.devices, num_runs=len(keys))
    checkpoints = recording.checkpoints(name)
    saved = restore(checkpoints, train, keys)
    states, history, spent = None, History(), {"compiling": 0.0, "running": 0.0}
    if saved is not None:
        states, spent = saved.arrays["state"], saved.note["spent"]
        history = History.of(saved.arrays, saved.note["evaluated"])
        recording.timing(name, **spent)
        task.resume(saved.epoch)
        yield from history.epochs
        if saved.epoch == num_epochs:
            return
    first = len(history.epochs)
    task.compiling("" if layout.mesh is None else str(layout))
    program = Program(train, keys, layout, num_steps=steps_per_epoch, states=states)
    spent["compiling"] += program.seconds
    task.start(done=max(first - 1, 0), compiled=program.seconds)
    before, num_unsaved = time.perf_counter(), 0
    for number in range(first, num_epochs + 1):
        averages = program.epoch() if number else None
        due = number % eval_every == 0 or number == num_epochs
        evaluation = program.evaluate(last=number == num_epochs) if due else None
        history.epochs.append(Epoch(number, averages, evaluation))
        if averages is not None:
            error, converged = np.median(averages.error), np.mean(averages.converged)
            task.update(number, loss=float(error), converged=float(converged))
            num_unsaved += due
        now = time.perf_counter()
        spent["running"] += now - before
        before = now
        recording.timing(name, **spent)
        if num_unsaved == checkpoint_every or (number == num_epochs and num_epochs):
            save(checkpoints, program, keys, history, spent)
            num_unsaved = 0
        yield history.epochs[-1]


def save(
    checkpoints: Checkpoints,
    program: Program,
    keys: PRNGKeyArray,
    history: History,
    spent: Mapping[str, float],
) -> None:
    """A checkpoint after the newest epoch, which was evaluated."""
    last = history.epochs[-1]
    arrays = {
        "state": program.states_on_host(),
        "keys": np.asarray(jax.random.key_data(keys)),
        **history.arrays(),
    }
    note = {"last": last.number, "evaluated": history.evaluated, "spent": spent}
    checkpoints.save(last.number, arrays, score=score(last.evaluation), note=note)


def score(evaluation: Any) -> float:
    """The mean error of the runs that have one; of none of them the largest that JSON has."""
    errors = np.asarray(evaluation.error)
    finite = errors[np.isfinite(errors)]
    mean = float(finite.mean()) if finite.size else math.inf
    return min(mean, sys.float_info.max)


def restore(checkpoints: Checkpoints, train: Train, keys: PRNGKeyArray) -> Saved | None:
    """What `save` saved last; None without it."""

    def like(note: dict[str, Any]) -> dict[str, Any]:
        states = jax.eval_shape(train.start, keys)
        history = shapes(
            jax.eval_shape(jax.vmap(train.evaluate), states.net),
            last=note["last"],
            num_evaluated=len(note["evaluated"]),
            num_runs=len(keys),
        )
        return {"state": states, "keys": np.asarray(jax.random.key_data(keys)), **history}

    return checkpoints.restore(like)


def require_equilibria(name: str, converged: Any) -> None:
    """Raise Stopped if not one equilibrium was reached: numbers would mean nothing."""
    if not np.any(converged):
        raise Stopped(
            f"{name}: the solver reached no equilibrium at all; try solver=pseudo_transient"
        )
