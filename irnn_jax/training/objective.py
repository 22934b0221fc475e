"""What training minimises: the mean loss of the samples that have an equilibrium, and a penalty."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool

from irnn_jax.activations import ActivationLike
from irnn_jax.analysis.penalties import squared_jacobian
from irnn_jax.equilibrium import Equilibrium, adjoint_probe, equilibrium
from irnn_jax.gradients import Gradient
from irnn_jax.implicit import AdjointReport
from irnn_jax.networks.dense import NetworkLike, as_network
from irnn_jax.networks.time_constants import TimeConstants
from irnn_jax.solvers import Solver

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
class Objective:
    """The loss of one sample, and how its equilibrium is found and differentiated.

    The fields are those of `irnn_jax.make_train_step`, which holds their documentation.
    """

    loss: Loss
    solver: Solver
    gradient: Gradient
    activation: ActivationLike
    time_constants: TimeConstants | None
    check_stability: bool
    tolerance: ArrayLike | None
    penalty: float | Array

    def __post_init__(self):
        if not isinstance(self.penalty, Array) and not 0 <= self.penalty < float("inf"):
            raise ValueError(f"penalty must be a number of at least 0, got {self.penalty}")

    def of_samples(
        self, net: NetworkLike, x: Array, target: Any, probe: Any = None
    ) -> tuple[Array, Array, Equilibrium]:
        """The loss of each sample, which of them may be used, and their equilibria."""
        result = equilibrium(
            net,
            x,
            solver=self.solver,
            gradient=self.gradient,
            activation=self.activation,
            time_constants=self.time_constants,
            check_stability=self.check_stability,
            tolerance=self.tolerance,
            probe=probe,
        )
        usable = result.converged & _finite(target, result.converged)
        # Replace before the loss, not after: its derivative at a NaN would be NaN, masked or not.
        output = _where(usable, result.activities[-1])
        losses = _per_sample(self.loss, x.ndim - 1)(output, _where(usable, target))
        if losses.shape != x.shape[:-1]:
            shape = losses.shape[x.ndim - 1 :]
            raise ValueError(f"loss must return one number for a sample, got shape {shape}")
        return losses, usable, result

    def usable_losses(self, net: NetworkLike, *, x: Array, target: Any) -> tuple[Array, Array]:
        """The loss of each sample, and which of them may be used."""
        losses, usable, _ = self.of_samples(net, x, target)
        return losses, usable

    def probe(self, net: NetworkLike, x: Array) -> AdjointReport:
        """Zeros, through which the adjoint solves of a batch report."""
        return adjoint_probe(x.shape[:-1], jnp.result_type(x, *jax.tree.leaves(net)))

    def gradient_of_batch(
        self, net: NetworkLike, x: Array, target: Any
    ) -> tuple[Found, AdjointReport, Any]:
        """What is known of a batch, of its adjoint solves, and the gradient like `net`."""
        probe = self.probe(net, x)
        differentiate = jax.grad(self.of_batch, argnums=(0, 1), has_aux=True)
        (gradient, report), found = differentiate(net, probe, x, target)
        return found, report, gradient

    def of_batch(
        self, params: NetworkLike, probe: AdjointReport, x: Array, target: Any
    ) -> tuple[Array, Found]:
        """The mean loss with the penalty, and what is known beside it."""
        net = as_network(params)
        losses, usable, result = self.of_samples(net, x, target, probe)
        count = jnp.maximum(jnp.sum(usable), 1).astype(losses.dtype)
        task = jnp.sum(jnp.where(usable, losses, 0)) / count
        added = jnp.zeros_like(task)
        if isinstance(self.penalty, Array) or self.penalty > 0:
            state = _where(usable, jnp.concatenate(result.activities, axis=-1))
            squares = squared_jacobian(net, _where(usable, x), state, self.activation)
            mean = jnp.sum(jnp.where(usable, squares, 0)) / count
            added = jnp.asarray(self.penalty, task.dtype) * mean.astype(task.dtype)
        found = Found(loss=task, penalty=added, equilibria=result, usable=usable)
        return task + added, found


def _per_sample(loss: Loss, num_axes: int) -> Loss:
    for _ in range(num_axes):
        loss = jax.vmap(loss)
    return loss


def _finite(tree: Any, usable: Bool[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """Which samples have only finite numbers in all leaves of `tree`."""
    for leaf in jax.tree.leaves(tree):
        own_axes = tuple(range(usable.ndim, jnp.ndim(leaf)))
        usable = usable & jnp.all(jnp.isfinite(leaf), axis=own_axes)
    return usable


def _where(usable: Bool[Array, "*batch"], tree: Any) -> Any:
    """`tree` with zeros in the samples that are not usable."""

    def mask(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.where(usable.reshape(usable.shape + (1,) * (leaf.ndim - usable.ndim)), leaf, 0)

    return jax.tree.map(mask, tree)
