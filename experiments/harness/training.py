"""Running a training: compiled once, all of its runs side by side, an epoch at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from omegaconf import DictConfig

import irnn_jax as irnn
from experiments.harness.progress import Task
from experiments.harness.recording import Recording
from experiments.harness.vary import Numbers, make
from irnn_jax.network import NetworkLike

T = TypeVar("T")


class Train(NamedTuple):
    """A training as pure functions of one run, for `jit` and `vmap`.

    Attributes:
        init: key and the numbers that `vary` gave the lane -> the state before the first step.
        step: `irnn_jax.make_train_step`'s.
        sample: key -> a batch.
        evaluate: network -> any pytree of arrays.
        final: the same after the last epoch; None for `evaluate`.
    """

    init: Callable[..., irnn.TrainState]
    step: Callable[[irnn.TrainState, Any], tuple[irnn.TrainState, irnn.Metrics]]
    sample: Callable[[PRNGKeyArray], Any]
    evaluate: Callable[[NetworkLike], Any]
    final: Callable[[NetworkLike], Any] | None = None


class Averages(NamedTuple):
    """Over one epoch's steps, (runs,).

    Attributes:
        error: the loss, over the samples that converged; NaN if none did.
        converged: fraction of the samples.
        adjoint_converged: fraction of those whose adjoint converged too.
        solver_steps: per sample.
        gradient_norm: Euclidean norm of the whole gradient.
        rejected: fraction of the steps after which the guard took steps back.
    """

    error: Any
    converged: Any
    adjoint_converged: Any
    solver_steps: Any
    gradient_norm: Any
    rejected: Any


class Epoch(NamedTuple):
    """What is known after epoch `number`.

    `training` is None before the first epoch, `evaluation`, with leaves (runs, ...), when not due.
    """

    number: int
    training: Averages | None
    evaluation: Any


def draw(
    config: DictConfig, network: DictConfig, key: PRNGKeyArray, sizes: tuple[int, ...]
) -> NetworkLike:
    """One network of an experiment, with the model's parametrisation unless it is feed-forward."""
    if config.model.parametrization is None or not network.recurrent:
        return irnn.init(key, sizes, recurrent=network.recurrent)
    return irnn.init(key, sizes, parametrization=make(config.model.parametrization))


def run(
    train: Train,
    keys: PRNGKeyArray,
    *,
    name: str,
    numbers: Numbers | None = None,
    num_epochs: int,
    steps_per_epoch: int,
    eval_every: int,
    recording: Recording,
    task: Task,
) -> Iterator[Epoch]:
    """Train all runs, and yield what is known before the first epoch and after each.

    The state is evaluated before the first epoch, every `eval_every` epochs and after the last.
    """
    start = time.perf_counter()
    states = jax.jit(jax.vmap(train.init))(keys, dict(numbers or {}))
    # Compiled ahead, so that compilation is told apart from the run.
    fit = irnn.fit.lower(
        states,
        keys,
        step=train.step,
        sample=train.sample,
        num_epochs=1,
        num_steps=steps_per_epoch,
    ).compile()
    evaluate = jax.jit(jax.vmap(train.evaluate)).lower(states.net).compile()
    final = evaluate
    if train.final is not None:
        final = jax.jit(jax.vmap(train.final)).lower(states.net).compile()
    compiled = time.perf_counter()
    task.start()
    yield Epoch(number=0, training=None, evaluation=_to_numpy(evaluate(states.net)))
    for number in range(1, num_epochs + 1):
        states, metrics = fit(states, keys)
        averages = average(jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], metrics))
        due = number % eval_every == 0 or number == num_epochs
        look = final if number == num_epochs else evaluate
        evaluation = _to_numpy(look(states.net)) if due else None
        error, converged = np.median(averages.error), np.mean(averages.converged)
        task.update(number, loss=float(error), converged=float(converged))
        yield Epoch(number=number, training=averages, evaluation=evaluation)
    recording.timing(name, compiling=compiled - start, running=time.perf_counter() - compiled)


def average(metrics: irnn.Metrics) -> Averages:
    """Averages of metrics with leaves (runs, steps)."""
    # A step reports the mean over its converged samples, and 0 if it has none: weigh them so.
    weights = np.sum(metrics.converged, axis=-1)
    error = np.sum(metrics.loss * metrics.converged, axis=-1)
    return Averages(
        error=np.divide(error, weights, out=np.full_like(error, np.nan), where=weights > 0),
        converged=np.mean(metrics.converged, axis=-1),
        adjoint_converged=np.mean(metrics.adjoint_converged, axis=-1),
        solver_steps=np.mean(metrics.mean_steps, axis=-1),
        gradient_norm=np.mean(metrics.gradient_norm, axis=-1),
        rejected=np.mean(metrics.rejected, axis=-1),
    )


def stack(trees: Sequence[T]) -> T:
    """One tree with a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def num_parameters(train: Train) -> int:
    """Weights and biases of one network."""
    net = jax.eval_shape(train.init, jax.random.key(0)).net
    return sum(leaf.size for leaf in jax.tree.leaves(net))


def require_equilibria(name: str, converged: Any) -> None:
    """Raise a RuntimeError if not one equilibrium was reached: numbers would mean nothing."""
    if not np.any(converged):
        raise RuntimeError(
            f"{name}: the solver reached no equilibrium at all; try solver=pseudo_transient"
        )


def _to_numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
