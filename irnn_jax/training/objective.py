"""What training minimises: the mean loss of the samples that have an equilibrium, and a penalty."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from irnn_jax.activations import ActivationLike
from irnn_jax.analysis.penalties import squared_jacobian
from irnn_jax.equilibrium import Equilibrium
from irnn_jax.implicit import AdjointReport
from irnn_jax.networks.dense import NetworkLike, as_network
from irnn_jax.training.solve import TrainedSolve
from irnn_jax.xla.samples import are_finite, kept

Loss = Callable[[Array, Any], Array]


class Found(NamedTuple):
    """What is known of a batch beside the objective's value.

    Attributes:
        loss: mean over the samples that may be used, ().
        penalty: what was added to it, ().
        equilibria: of all samples.
        usable: which samples count, (*batch).
    """

    loss: Array
    penalty: Array
    equilibria: Equilibrium
    usable: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class JacobianPenalty:
    """A weight times ||D A||_F^2 / n of a network, from its activities at hand."""

    weight: float | Array
    activation: ActivationLike

    def __post_init__(self):
        if not isinstance(self.weight, Array) and not 0 <= self.weight < float("inf"):
            raise ValueError(f"penalty must be a number of at least 0, got {self.weight}")

    @property
    def is_nothing(self) -> bool:
        """Whether its weight is the number 0, and not one that is traced."""
        return not isinstance(self.weight, Array) and self.weight == 0

    def of_samples(self, params: NetworkLike, x: Array, activities: Any) -> Array:
        """Of each sample, without the weight."""
        return squared_jacobian(as_network(params), x, activities, self.activation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of one sample, and how its equilibrium is found and differentiated.

    Its arguments are those of `irnn_jax.make_train_step`, which documents them; `penalty` is None
    where there is none.
    """

    loss: Loss
    solve: TrainedSolve
    penalty: JacobianPenalty | None

    def of_samples(
        self, params: Any, x: Any, target: Any, probe: Any = None
    ) -> tuple[Array, Array, Equilibrium]:
        """The loss of each sample, which of them may be used, and their equilibria."""
        output, result = self.solve(params, x, probe)
        usable = result.converged & are_finite(target, result.converged.ndim)
        # Replace before the loss, not after: its derivative at a NaN would be NaN, masked or not.
        losses = _per_sample(self.loss, usable.ndim)(kept(usable, output), kept(usable, target))
        if losses.shape != usable.shape:
            shape = losses.shape[usable.ndim :]
            raise ValueError(f"loss must return one number for a sample, got shape {shape}")
        return losses, usable, result

    def usable_losses(self, params: Any, *, x: Any, target: Any) -> tuple[Array, Array]:
        """The loss of each sample, and which of them may be used."""
        losses, usable, _ = self.of_samples(params, x, target)
        return losses, usable

    def gradient_of_batch(
        self, params: Any, x: Any, target: Any
    ) -> tuple[Found, AdjointReport, Any]:
        """What is known of a batch, of its adjoint solves, and the gradient like `params`."""
        probe = self.solve.probe(params, x)
        differentiate = jax.grad(self.of_batch, argnums=(0, 1), has_aux=True)
        (gradient, report), found = differentiate(params, probe, x, target)
        return found, report, gradient

    def of_batch(
        self, params: Any, probe: AdjointReport, x: Any, target: Any
    ) -> tuple[Array, Found]:
        """The mean loss with the penalty, and what is known beside it."""
        losses, usable, result = self.of_samples(params, x, target, probe)
        count = jnp.maximum(jnp.sum(usable), 1).astype(losses.dtype)
        task = jnp.sum(jnp.where(usable, losses, 0)) / count
        added = jnp.zeros_like(task)
        if self.penalty is not None:
            state = kept(usable, result.activities)
            squares = self.penalty.of_samples(params, kept(usable, x), state)
            mean = jnp.sum(jnp.where(usable, squares, 0)) / count
            added = jnp.asarray(self.penalty.weight, task.dtype) * mean.astype(task.dtype)
        found = Found(loss=task, penalty=added, equilibria=result, usable=usable)
        return task + added, found


def _per_sample(loss: Loss, num_axes: int) -> Loss:
    for _ in range(num_axes):
        loss = jax.vmap(loss)
    return loss
