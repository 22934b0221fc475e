"""Running a training: all of its runs side by side, an epoch at a time, saved and resumed."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from jaxtyping import PRNGKeyArray
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments.harness.checkpoints import Checkpoints
from experiments.harness.devices import spread
from experiments.harness.errors import BadConfig, Stopped
from experiments.harness.history import Averages, Epoch, History, average, stack
from experiments.harness.program import Program, Train
from experiments.harness.progress import Task
from experiments.harness.recording import Recording
from irnn_jax.network import NetworkLike

__all__ = [
    "Averages",
    "Epoch",
    "Train",
    "average",
    "draw",
    "make",
    "num_parameters",
    "require_equilibria",
    "run",
    "stack",
]


def make(node: DictConfig, replaced: Mapping[str, Any] | None = None) -> Any:
    """The object that `node._target_` names, some arguments replaced, by dotted path.

    Lists become tuples: strategies are hashable.
    """
    try:
        build = instantiate(node, _partial_=True, _convert_="all")
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in build.keywords.items()}
        check_types(build.func, arguments)
        for path, value in (replaced or {}).items():
            *parents, last = path.split(".")
            inner: Any = arguments
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        return build.func(**arguments)
    except (InstantiationException, TypeError, ValueError) as error:
        raise BadConfig(f"{node._get_full_key(None)}: {error}") from error


def check_types(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raise a TypeError that names the first number, flag or text that is of another type."""
    if not dataclasses.is_dataclass(function):
        return
    plain = {int, float, bool, str, type(None)}
    for name, hint in get_type_hints(function).items():
        is_union = get_origin(hint) in (Union, UnionType)
        types = set(get_args(hint)) if is_union else {hint}
        if name in arguments and types <= plain:
            value = arguments[name]
            found = {type(value)} | ({float} if type(value) is int else set())
            if not found & types:
                raise TypeError(f"{name} must be {hint_text(types)}, got {value!r}")


def hint_text(types: set[type]) -> str:
    names = sorted("null" if kind is type(None) else kind.__name__ for kind in types)
    return " or ".join(names)


def draw(
    config: DictConfig, network: DictConfig, key: PRNGKeyArray, sizes: tuple[int, ...]
) -> NetworkLike:
    """One network of an experiment, with the model's parametrisation unless it is feed-forward."""
    if config.model.parametrization is None or not network.recurrent:
        return irnn.init(key, sizes, recurrent=network.recurrent)
    return irnn.init(key, sizes, parametrization=make(config.model.parametrization))


def mean_error(evaluation: Any) -> float:
    """Of the runs and samples that have an error."""
    errors = np.asarray(evaluation.error)
    finite = errors[np.isfinite(errors)]
    return float(finite.mean()) if finite.size else math.inf


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
    score: Callable[[Any], float] = mean_error,
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
        score: of an evaluation; the checkpoint with the smallest is kept as the best.
    """
    layout = spread(recording.devices, num_runs=len(keys))
    with recording.checkpoints(name) as checkpoints:
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
        task.start(done=max(first - 1, 0))
        num_unsaved = 0
        for number in range(first, num_epochs + 1):
            averages = program.epoch() if number else None
            due = number % eval_every == 0 or number == num_epochs
            evaluation = program.evaluate(last=number == num_epochs) if due else None
            epoch = Epoch(number, averages, evaluation)
            history.epochs.append(epoch)
            if averages is not None:
                show(task, number, averages)
                num_unsaved += due
            clock.tick()
            if num_unsaved == checkpoint_every or (number == num_epochs and num_epochs):
                save(checkpoints, program, keys, history, clock, score(epoch.evaluation))
                num_unsaved = 0
            yield epoch


def show(task: Task, number: int, averages: Averages) -> None:
    """Bring the display up to date after epoch `number`."""
    error, converged = np.median(averages.error), np.mean(averages.converged)
    task.update(number, loss=float(error), converged=float(converged))


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
    checkpoints: Checkpoints,
    program: Program,
    keys: PRNGKeyArray,
    history: History,
    clock: Clock,
    score: float,
) -> None:
    """A checkpoint after the newest epoch."""
    last = history.epochs[-1].number
    arrays = {
        "state": program.states_on_host(),
        "keys": np.asarray(jax.random.key_data(keys)),
        **history.arrays(),
    }
    note = {
        "evaluated": history.evaluated,
        "compiling": clock.compiling,
        "running": clock.running,
    }
    # JSON has no infinity.
    checkpoints.save(last, arrays, score=min(score, sys.float_info.max), note=note | {"last": last})


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


def num_parameters(train: Train) -> int:
    """Weights and biases of one network."""
    net = jax.eval_shape(train.init, jax.random.key(0)).net
    return sum(leaf.size for leaf in jax.tree.leaves(net))


def require_equilibria(name: str, converged: Any) -> None:
    """Raise Stopped if not one equilibrium was reached: numbers would mean nothing."""
    if not np.any(converged):
        raise Stopped(
            f"{name}: the solver reached no equilibrium at all; try solver=pseudo_transient"
        )
