"""Running a training: all of its runs side by side, an epoch at a time, saved and resumed."""

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

import irnn_jax as irnn
from experiments.runner.checkpoints import Checkpoints
from experiments.runner.devices import spread
from experiments.runner.errors import Stopped
from experiments.runner.history import Epoch, History
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
    clock = Clock(recording, name)
    states, history = restore(checkpoints, train, keys, clock)
    first = len(history.epochs)
    if first:
        task.resume(first - 1)
        yield from history.epochs
    if first == num_epochs + 1:
        return
    task.compiling("" if layout.mesh is None else str(layout))
    program = Program(train, keys, layout, num_steps=steps_per_epoch, states=states)
    clock.compiled(program.seconds)
    task.start(done=max(first - 1, 0), compiled=program.seconds)
    num_unsaved = 0
    for number in range(first, num_epochs + 1):
        averages = program.epoch() if number else None
        due = number % eval_every == 0 or number == num_epochs
        evaluation = program.evaluate(last=number == num_epochs) if due else None
        history.epochs.append(Epoch(number, averages, evaluation))
        if averages is not None:
            error, converged = np.median(averages.error), np.mean(averages.converged)
            task.update(number, loss=float(error), converged=float(converged))
            num_unsaved += due
        clock.tick()
        if num_unsaved == checkpoint_every or (number == num_epochs and num_epochs):
            save(checkpoints, program, keys, history, clock)
            num_unsaved = 0
        yield history.epochs[-1]


class Clock:
    """What a training has cost, over all the processes that it took."""

    def __init__(self, recording: Recording, name: str):
        self._recording, self._name = recording, name
        self.compiling, self.running = 0.0, 0.0

    def compiled(self, seconds: float) -> None:
        self.compiling += seconds
        self._last = time.perf_counter()

    def tick(self) -> None:
        now = time.perf_counter()
        self.running += now - self._last
        self._last = now
        self.tell()

    def tell(self) -> None:
        self._recording.timing(self._name, compiling=self.compiling, running=self.running)


def save(
    checkpoints: Checkpoints, program: Program, keys: PRNGKeyArray, history: History, clock: Clock
) -> None:
    """A checkpoint after the newest epoch, which was evaluated."""
    last = history.epochs[-1]
    arrays = {
        "state": program.states_on_host(),
        "keys": np.asarray(jax.random.key_data(keys)),
        **history.arrays(),
    }
    note = {
        "last": last.number,
        "evaluated": history.evaluated,
        "compiling": clock.compiling,
        "running": clock.running,
    }
    checkpoints.save(last.number, arrays, score=score(last.evaluation), note=note)


def score(evaluation: Any) -> float:
    """The mean error of the runs that have one; of none of them the largest that JSON has."""
    errors = np.asarray(evaluation.error)
    finite = errors[np.isfinite(errors)]
    mean = float(finite.mean()) if finite.size else math.inf
    return min(mean, sys.float_info.max)


def restore(
    checkpoints: Checkpoints, train: Train, keys: PRNGKeyArray, clock: Clock
) -> tuple[irnn.TrainState | None, History]:
    """The states and the history in the newest checkpoint; None and an empty one without it."""
    data = np.asarray(jax.random.key_data(keys))

    def like(note: dict[str, Any]) -> dict[str, Any]:
        states = jax.eval_shape(train.start, keys)
        evaluation = jax.eval_shape(jax.vmap(train.evaluate), states.net)
        shapes = History.like(
            evaluation,
            last=note["last"],
            num_evaluated=len(note["evaluated"]),
            num_runs=len(keys),
        )
        return {"state": states, "keys": data, **shapes}

    saved = checkpoints.restore(like)
    if saved is None:
        return None, History()
    clock.compiling, clock.running = saved.note["compiling"], saved.note["running"]
    clock.tell()
    history = History.of(saved.arrays, last=saved.epoch, evaluated=saved.note["evaluated"])
    return saved.arrays["state"], history


def require_equilibria(name: str, converged: Any) -> None:
    """Raise Stopped if not one equilibrium was reached: numbers would mean nothing."""
    if not np.any(converged):
        raise Stopped(
            f"{name}: the solver reached no equilibrium at all; try solver=pseudo_transient"
        )
