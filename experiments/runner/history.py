"""What is known of a training, epoch by epoch: to be shown, saved, and told again."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

import irnn_jax as irnn

T = TypeVar("T")


class Averages(NamedTuple):
    """Over one epoch's steps, (runs,), float64.

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


class History:
    """The epochs so far."""

    def __init__(self, epochs: Iterable[Epoch] = ()):
        self.epochs = list(epochs)

    @property
    def evaluated(self) -> list[int]:
        """The epochs after which there was an evaluation."""
        return [epoch.number for epoch in self.epochs if epoch.evaluation is not None]

    def arrays(self) -> dict[str, Any]:
        """All of it in arrays with leaves (epochs, runs, ...)."""
        trained = [epoch.training for epoch in self.epochs if epoch.training is not None]
        tested = [epoch.evaluation for epoch in self.epochs if epoch.evaluation is not None]
        return {"training": stack(trained), "evaluation": stack(tested)}

    @classmethod
    def of(cls, arrays: dict[str, Any], evaluated: Sequence[int]) -> "History":
        """The inverse of `arrays`."""
        tested = dict(zip(evaluated, _rows(arrays["evaluation"]), strict=True))
        trained = [None, *_rows(arrays["training"])]
        return cls(Epoch(n, averages, tested.get(n)) for n, averages in enumerate(trained))


def shapes(evaluation: Any, *, last: int, num_evaluated: int, num_runs: int) -> dict[str, Any]:
    """The shapes of `History.arrays`, from those of one evaluation."""
    averages = Averages(*[jax.ShapeDtypeStruct((num_runs,), np.float64)] * len(Averages._fields))

    def over(tree: Any, count: int) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), tree
        )

    return {"training": over(averages, last), "evaluation": over(evaluation, num_evaluated)}


def _rows(tree: Any) -> Iterator[Any]:
    """The inverse of `stack`."""
    for i in range(len(jax.tree.leaves(tree)[0])):
        yield jax.tree.map(lambda leaf, i=i: leaf[i], tree)


def average(metrics: irnn.Metrics) -> Averages:
    """Averages of metrics with leaves (runs, steps)."""
    # A step reports the mean over its converged samples, and 0 if it has none: weigh them so.
    weights = np.sum(metrics.converged, axis=-1)
    error = np.sum(metrics.loss * metrics.converged, axis=-1)
    averages = Averages(
        error=np.divide(error, weights, out=np.full_like(error, np.nan), where=weights > 0),
        converged=np.mean(metrics.converged, axis=-1),
        adjoint_converged=np.mean(metrics.adjoint_converged, axis=-1),
        solver_steps=np.mean(metrics.mean_steps, axis=-1),
        gradient_norm=np.mean(metrics.gradient_norm, axis=-1),
        rejected=np.mean(metrics.rejected, axis=-1),
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), averages)


def stack(trees: Sequence[T]) -> T:
    """One tree with a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
